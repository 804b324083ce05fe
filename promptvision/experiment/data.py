"""What a configured run looks at: its pictures and classes, and the loaders that bring them, or their features."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from yacs.config import CfgNode

from promptvision.backbones import CLIP, ImageTower
from promptvision.data.bad_images import leave_out_bad
from promptvision.data.cards import Card, load_card
from promptvision.data.domains import read_domains
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.image_cache import CachedPictures
from promptvision.data.images import Item, Pictures
from promptvision.data.readers import read
from promptvision.data.splits import class_subset, few_shot, held_out, short_classes, subset_classes
from promptvision.data.long_tail import long_tailed
from promptvision.data.transforms import FIXED, Transform, test_transform, train_transform
from promptvision.data.unlabelled import WithUnlabelled, target_epochs
from promptvision.engine.distributed import part
from promptvision.errors import InputError
from promptvision.experiment.feature_cache import FeatureCache, FeatureTestLoader, FeatureTrainLoader, cache_folder
from promptvision.method import Method
from promptvision.experiment.schedule import epochs

LOG = logging.getLogger(__name__)
KEEP_AT_MOST = 1024
"""Few-shot sets of up to this many pictures are decoded once and kept in memory."""


@dataclass
class Data:
    """The pictures and classes a run may see."""

    card: Card
    pictures: Pictures
    classes: list[str]
    left_out: list[str] = field(default_factory=list)
    """A sentence for each picture that cannot be read, where INPUT.ON_BAD_IMAGE is skip."""


def load_data(cfg: CfgNode) -> Data:
    """Few-shot picks first, from all classes, then the class subset, as published, then its long tail."""
    wanted, card = cfg.DATASET, load_card(cfg.DATASET.NAME)
    pictures = _read(card, wanted)
    train, val = _picked(cfg, pictures)
    for name, count in short_classes(pictures.train, wanted.SHOTS).items():
        LOG.warning("class %r has only %d training pictures for %d shots: all are used", name, count, wanted.SHOTS)
    train, val, test, unlabelled = (
        class_subset(items, wanted.CLASSES, pictures.classes)
        for items in (train, val, pictures.test, pictures.unlabelled)
    )
    classes = subset_classes(pictures.classes, wanted.CLASSES)
    if wanted.IMBALANCE > 1:
        train = long_tailed(train, len(classes), wanted.IMBALANCE, cfg.SEED, wanted.IMBALANCE_SHAPE)
    chosen = replace(pictures, train=train, val=val, test=test, unlabelled=unlabelled)
    return Data(card, *_readable(cfg, chosen, classes))


def _readable(cfg: CfgNode, pictures: Pictures, classes: list[str]) -> tuple[Pictures, list[str], list[str]]:
    """Pictures from the files or INPUT.CACHE, perhaps without those that cannot be read; classes; what is left out."""
    if cfg.INPUT.CACHE:
        if cfg.INPUT.EXIF == "apply":
            raise InputError(
                "INPUT.EXIF apply needs the files: the pictures in INPUT.CACHE have lost their orientation"
            )
        pictures = CachedPictures(cfg.INPUT.CACHE).serve(pictures)
    left_out: list[str] = []
    if cfg.INPUT.ON_BAD_IMAGE == "skip":
        pictures, left_out = leave_out_bad(pictures, cfg.TRAIN.WORKERS)
    return pictures, classes, left_out


def _read(card: Card, wanted: CfgNode) -> Pictures:
    """The data set, or its source and target."""
    if wanted.SOURCE or wanted.TARGET:
        return read_domains(card, wanted.ROOT, wanted.SOURCE, wanted.TARGET, wanted.HELD_OUT)
    if wanted.HELD_OUT:
        raise InputError("DATASET.HELD_OUT parts a target domain: name it in DATASET.TARGET")
    return read(card, wanted.ROOT)


def _picked(cfg: CfgNode, pictures: Pictures) -> tuple[list[Item], list[Item]]:
    """Training and validation pictures of all classes; the former do not depend on where the latter come from, but
    where every picture is trained on and some of them are to be held out."""
    wanted = cfg.DATASET
    train, val = few_shot(pictures.train, pictures.val, wanted.SHOTS, cfg.SEED, wanted.FEW_SHOT)
    if wanted.VALIDATION == "held_out":
        train, val = held_out(pictures.train, train, wanted.SHOTS, cfg.SEED)
    elif wanted.VALIDATION != "own":
        val = list(pictures.test) if wanted.VALIDATION == "test" else []
    if wanted.TRAIN == "train":
        return train, val
    if wanted.VALIDATION in ("none", "test"):
        raise InputError(
            f"DATASET.TRAIN train+val with DATASET.VALIDATION {wanted.VALIDATION} would train on "
            f"{'test' if wanted.VALIDATION == 'test' else 'no validation'} pictures: set VALIDATION own or held_out"
        )
    return [*train, *val], []


def image_tower(method: Method) -> ImageTower:
    """The tower that sees the pictures: it decides their size and normalisation."""
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
    """Features in place of pictures, if the method leaves the image tower frozen and CACHE_DIR names a folder."""
    tower, folder = image_tower(method), cache_folder(cfg.CACHE_DIR)
    thawed = tower.training or any(parameter.requires_grad for parameter in tower.parameters())
    if folder is None or thawed or not method.frozen_images:
        return None
    return FeatureCache(tower, folder, cfg.TRAIN.PRECISION, progress=progress)


def test_loader(
    cfg: CfgNode, data: Data, method: Method, split: str, cache: FeatureCache | None, *, ahead: bool = True
) -> TestLoader | FeatureTestLoader:
    """The pictures of a split, in order, or with a cache their features, computed `ahead` or when first asked for."""
    items = getattr(data.pictures, split)
    if not items:
        hint = "; DATASET.VALIDATION held_out takes some of the training pictures" if split == "val" else ""
        raise InputError(f"data set {data.card.name!r} has no {split} pictures{hint}")
    size, workers = cfg.TEST.BATCH_SIZE, cfg.TRAIN.WORKERS
    loader = TestLoader(items, data.pictures.open, transform_of(cfg, method), batch_size=size, workers=workers)
    if cache is None:
        return loader
    features = FeatureTestLoader(loader, cache, data.pictures, f"{split} pictures")
    if ahead:
        features.prepare()
    return features


def train_loader(
    cfg: CfgNode, data: Data, method: Method, first: int, cache: FeatureCache | None
) -> TrainLoader | FeatureTrainLoader | WithUnlabelled:
    """Shuffled, augmented batches of the training pictures, with those of the unlabelled ones if the method wants them.

    With a cache, where TRAIN.CACHE says so, batches of their features, those from epoch `first` on computed ahead.
    """
    items = data.pictures.train
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
        data.pictures.open,
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
    """With a cache, where TRAIN.CACHE says so, the features of a loader's pictures."""
    if cache is None or not _ahead(cfg):
        return loader
    features = FeatureTrainLoader(loader, cache, data.pictures, cfg.TEST.BATCH_SIZE, keep=keep)
    features.prepare(span)
    return features


def _ahead(cfg: CfgNode) -> bool:
    """Whether features of training views are worth computing ahead."""
    again = cfg.INPUT.TRAIN in FIXED or cfg.TRAIN.VIEWS > 0
    return {"off": False, "auto": again, "all": True}[cfg.TRAIN.CACHE]


def _unlabelled(cfg: CfgNode, data: Data) -> list[Item]:
    found, target = data.pictures.unlabelled, cfg.DATASET.TARGET
    if not found:
        where = f"the target {target!r} of data set {data.card.name!r}" if target else f"data set {data.card.name!r}"
        raise InputError(
            f"{where} has no unlabelled pictures, which {cfg.METHOD.NAME} adapts to; name two domains that have some "
            "in DATASET.SOURCE and DATASET.TARGET"
        )
    return found
