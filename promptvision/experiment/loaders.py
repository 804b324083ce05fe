"""Loaders of a run: batches of images, or of their cached features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from yacs.config import CfgNode

from promptvision.backbones import CLIP, ImageTower
from promptvision.data.images import Item
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.transforms import FIXED, Transform, test_transform, train_transform
from promptvision.data.unlabelled import WithUnlabelled, target_epochs
from promptvision.engine.distributed import part
from promptvision.errors import InputError
from promptvision.experiment.data import Data
from promptvision.experiment.feature_cache import FeatureCache, FeatureTestLoader, FeatureTrainLoader, cache_folder
from promptvision.experiment.schedule import epochs
from promptvision.method import Method

KEEP_AT_MOST = 1024
"""Few-shot sets of up to this many images are decoded once and kept in memory."""


def image_tower(method: Method) -> ImageTower:
    """The tower that sees the images: it decides their size and normalisation."""
    backbone: Any = method.backbone
    return backbone.image if isinstance(backbone, CLIP) else backbone


def transform_of(cfg: CfgNode, method: Method, training: bool = False) -> Transform:
    """The configured recipe, at the backbone's size and normalisation unless the config sets its own."""
    tower = image_tower(method)
    size, mean, std = cfg.INPUT.SIZE or tower.image_size, cfg.INPUT.MEAN or tower.mean, cfg.INPUT.STD or tower.std
    upright = cfg.INPUT.EXIF == "apply"
    if training:
        return train_transform(cfg.INPUT.TRAIN, size, mean, std, upright=upright)
    return test_transform(cfg.INPUT.TEST, size, mean, std, upright=upright)


def feature_cache(cfg: CfgNode, method: Method, *, progress: bool = False) -> FeatureCache | None:
    """Features in place of images, if the method leaves the image tower frozen and CACHE_DIR names a folder."""
    tower, folder = image_tower(method), cache_folder(cfg.CACHE_DIR)
    thawed = tower.training or any(parameter.requires_grad for parameter in tower.parameters())
    if folder is None or thawed or not method.frozen_images:
        return None
    return FeatureCache(tower, folder, cfg.TRAIN.PRECISION, progress=progress)


def test_loader(
    cfg: CfgNode, data: Data, method: Method, split: str, cache: FeatureCache | None, *, ahead: bool = True
) -> TestLoader | FeatureTestLoader:
    """The images of a split, in order, or with a cache their features, computed `ahead` or when first asked for."""
    items = getattr(data.images, split)
    if not items:
        hint = "; DATASET.VALIDATION held_out takes some of the training images" if split == "val" else ""
        raise InputError(f"data set {data.card.name!r} has no {split} images{hint}")
    size, workers = cfg.TEST.BATCH_SIZE, cfg.TRAIN.WORKERS
    loader = TestLoader(items, data.images.open, transform_of(cfg, method), batch_size=size, workers=workers)
    if cache is None:
        return loader
    features = FeatureTestLoader(loader, cache, data.images, f"{split} images")
    if ahead:
        features.prepare()
    return features


def train_loader(
    cfg: CfgNode, data: Data, method: Method, first: int, cache: FeatureCache | None
) -> TrainLoader | FeatureTrainLoader | WithUnlabelled:
    """Shuffled, augmented batches of the training images, with those of the unlabelled ones if the method wants them.

    With a cache, where TRAIN.CACHE says so, batches of their features, those from epoch `first` on computed ahead.
    """
    items = data.images.train
    few = cfg.DATASET.SHOTS > 0 and len(items) <= KEEP_AT_MOST
    loader = _shuffled(cfg, data, method, items, few and not (cache and _ahead(cfg)))
    span = range(first, epochs(cfg, len(loader)))
    labelled = _as_features(cfg, data, loader, span, cache, few)
    if not method.wants_unlabelled:
        return labelled
    target = _shuffled(cfg, data, method, _unlabelled(cfg, data), False)
    others = target_epochs(span, len(loader), len(target))
    return WithUnlabelled(labelled, _as_features(cfg, data, target, others, cache, False))


def _shuffled(cfg: CfgNode, data: Data, method: Method, items: Sequence[Item], keep: bool) -> TrainLoader:
    return TrainLoader(
        items,
        data.images.open,
        transform_of(cfg, method, training=True),
        batch_size=cfg.OPTIM.BATCH_SIZE,
        seed=cfg.SEED,
        workers=cfg.TRAIN.WORKERS,
        views=cfg.TRAIN.VIEWS,
        fixed=cfg.INPUT.TRAIN in FIXED,
        keep=keep,
        part=part(),
    )


def _as_features(
    cfg: CfgNode, data: Data, loader: TrainLoader, span: Iterable[int], cache: FeatureCache | None, keep: bool
) -> TrainLoader | FeatureTrainLoader:
    """With a cache, where TRAIN.CACHE says so, the features of a loader's images."""
    if cache is None or not _ahead(cfg):
        return loader
    features = FeatureTrainLoader(loader, cache, data.images, cfg.TEST.BATCH_SIZE, keep=keep)
    features.prepare(span)
    return features


def _ahead(cfg: CfgNode) -> bool:
    """Whether features of training views are worth computing ahead."""
    again = cfg.INPUT.TRAIN in FIXED or cfg.TRAIN.VIEWS > 0
    return {"off": False, "auto": again, "all": True}[cfg.TRAIN.CACHE]


def _unlabelled(cfg: CfgNode, data: Data) -> list[Item]:
    found, target = data.images.unlabelled, cfg.DATASET.TARGET
    if not found:
        where = f"the target {target!r} of data set {data.card.name!r}" if target else f"data set {data.card.name!r}"
        raise InputError(
            f"{where} has no unlabelled images, which {cfg.METHOD.NAME} adapts to; name two domains that have some "
            "in DATASET.SOURCE and DATASET.TARGET"
        )
    return found
