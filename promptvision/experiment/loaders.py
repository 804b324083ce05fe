"""Loaders of a run: batches of images, or of their cached features."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from yacs.config import CfgNode

from promptvision.backbones import CLIP, ImageTower
from promptvision.data.decode import BadImage
from promptvision.data.images import Images, Item
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.scan import scan
from promptvision.data.transforms import FIXED, Transform, test_transform, train_transform
from promptvision.data.unlabelled import WithUnlabelled, target_epochs
from promptvision.engine.device import choose_device
from promptvision.engine.distributed import part
from promptvision.engine.evaluate import predict, scores
from promptvision.engine.progress import track
from promptvision.engine.results.predictions_file import write_predictions
from promptvision.errors import InputError, counted
from promptvision.experiment.data import Data
from promptvision.experiment.feature_cache import FeatureCache, FeatureTestLoader, FeatureTrainLoader
from promptvision.experiment.feature_file import cache_folder
from promptvision.experiment.schedule import epochs
from promptvision.method import Batches, Method
from promptvision.own_code import names_code

LOG = logging.getLogger(__name__)
Self = TypeVar("Self", bound="Setup")
KEEP_AT_MOST = 1024
"""Few-shot sets of up to this many images are decoded once and kept in memory."""
WAYS_OUT = {
    "train": "name some of them train, or choose another dataset to train on",
    "val": "DATASET.VALIDATION held_out takes some of the training images",
    "test": "name some of them test, or give each class at least two images",
}
"""Split without images -> what to do."""


def image_tower(method: Method) -> ImageTower:
    """Return the tower that encodes the images; it decides their size and normalisation."""
    backbone: Any = method.backbone
    return backbone.image if isinstance(backbone, CLIP) else backbone


def transform_of(cfg: CfgNode, method: Method, training: bool = False) -> Transform:
    """Return the configured transform, with the backbone's size and normalisation unless the config sets its own."""
    tower = image_tower(method)
    size, mean, std = cfg.INPUT.SIZE or tower.image_size, cfg.INPUT.MEAN or tower.mean, cfg.INPUT.STD or tower.std
    upright, resize = cfg.INPUT.EXIF == "apply", cfg.INPUT.RESIZE
    if training:
        return train_transform(cfg.INPUT.TRAIN, size, mean, std, upright=upright, resize=resize)
    return test_transform(cfg.INPUT.TEST, size, mean, std, upright=upright, resize=resize, views=method.image_views)


def feature_cache(
    cfg: CfgNode, method: Method, everything: Images | None = None, *, progress: bool = False
) -> FeatureCache | None:
    """Return the cache of image features, or of what enters the blocks that a method reads.

    None if the image tower learns, if the method takes neither, or without CACHE_DIR. `everything`: all images of the
    dataset, if their features are to be computed at once.
    """
    tower, folder = image_tower(method), cache_folder(cfg.CACHE_DIR)
    trainable = tower.training or any(parameter.requires_grad for parameter in tower.parameters())
    if folder is None or trainable or not (method.frozen_images or method.kept_states):
        return None
    starts = () if method.frozen_images else method.kept_states
    own = any(names_code(name) for name in (cfg.BACKBONE.NAME, cfg.METHOD.NAME))
    layers, precision = method.frozen_layers, cfg.TRAIN.PRECISION
    return FeatureCache(
        tower,
        folder,
        precision,
        progress=progress,
        compare=own,
        starts=starts,
        layers=layers,
        everything=everything,
    )


@dataclass(frozen=True)
class Setup:
    """A method and its data as a config describes them, and the loaders between the two."""

    cfg: CfgNode
    data: Data
    method: Method
    cache: FeatureCache | None
    """Features are read from here in place of images, where there is one; what enters a later block, in training."""
    progress: bool

    @property
    def device(self) -> torch.device:
        """The device of TRAIN.DEVICE."""
        return choose_device(self.cfg.TRAIN.DEVICE)

    @property
    def among(self) -> Sequence[int]:
        """The method's labels of the classes that are tested, if it was trained on more (DATASET.TRAIN_CLASSES)."""
        ours, theirs = self.data.classes, self.method.classes
        return () if ours == theirs else [theirs.index(name) for name in ours]

    def on(self: Self, images: Images) -> Self:
        """Return the same setup on other images of the same classes."""
        return replace(self, data=replace(self.data, images=images))

    def check_test_images(self, decode: bool) -> TestLoader | FeatureTestLoader:
        """Return the loader of TEST.SPLIT; InputError if the split is empty or, with `decode`, has an unreadable image.

        With a cache the features are computed for this, else every image is decoded once. No global random draw is
        used up.
        """
        cfg, images = self.cfg, self.data.images
        with torch.random.fork_rng(devices=[]):
            loader = self.test_loader(cfg.TEST.SPLIT, ahead=decode)
            files = images.root is not None and cfg.INPUT.ON_BAD_IMAGE == "stop"
            if decode and files and isinstance(loader, TestLoader):
                paths = [path for path, _, _ in loader.views.items]
                found = scan(images, paths, attrgetter("size"), cfg.TRAIN.WORKERS)
                for seen in track(found, "decoding test images", "image", len(paths), shown=self.progress):
                    if seen.fault:
                        raise BadImage(seen.fault)
        return loader

    def test(
        self, loader: TestLoader | FeatureTestLoader | None = None, predictions: Path | None = None
    ) -> dict[str, Any]:
        """Return the scores on TEST.SPLIT, read from `loader` if given, and whether its features were cached.

        `predictions`: the file for the prediction of each image; if it cannot be written, the log says so.
        """
        split = self.cfg.TEST.SPLIT
        loader, title = loader or self.test_loader(split), f"testing on {split}" if self.progress else ""
        logits, labels = predict(self.method, loader, self.device, self.cfg.TRAIN.PRECISION, progress=title)
        logits = logits[:, list(self.among)] if self.among else logits
        found = scores(logits, labels)
        if predictions:
            paths = [path for path, _, _ in getattr(self.data.images, split)]
            try:
                write_predictions(predictions, paths, self.data.classes, logits, labels)
            except InputError as error:  # the scores are not lost
                LOG.warning("%s", error)
        return {"split": split, **found, "test_features": loader.source}

    def test_loader(self, split: str, *, ahead: bool = True) -> TestLoader | FeatureTestLoader:
        """Return the images of a split in order; with a cache their features, computed `ahead` or on first use."""
        items = getattr(self.data.images, split)
        if not items:
            raise InputError(f"dataset {self.data.card.name!r} has no {split} images; {WAYS_OUT[split]}")
        loader = self._cached(
            TestLoader(
                items,
                self.data.images.open,
                transform_of(self.cfg, self.method),
                batch_size=self.cfg.TEST.BATCH_SIZE,
                workers=self.cfg.TRAIN.WORKERS,
                device=self.device,
            ),
            f"{split} images",
        )
        if ahead and isinstance(loader, FeatureTestLoader):
            loader.prepare()
        return loader

    def unaugmented(self) -> tuple[Batches, Batches]:
        """Return the training and validation images as a test sees them; nothing is read before the first use."""
        train, val = (
            self.test_loader(split, ahead=False) if getattr(self.data.images, split) else ()
            for split in ("train", "val")
        )
        return train, val

    def to_prepare(self) -> tuple[Batches, Batches]:
        """Return what `Method.prepare` is given: `unaugmented`, or augmented views of the training images.

        They are numbered from -1 down: none of them is one of training.
        """
        train, val = self.unaugmented()
        if not self.method.prepare_views or not self.data.images.train:
            return train, val
        loader, size = self._shuffled(self.data.images.train, keep=False), self.cfg.TEST.BATCH_SIZE
        numbers = range(1, self.method.prepare_views + 1)
        views = (self._cached(loader.view(-number, size), f"view {number} to prepare on") for number in numbers)
        return chain.from_iterable(views), val

    def _cached(self, loader: TestLoader, title: str) -> TestLoader | FeatureTestLoader:
        """Return the features of a loader's images if there is a cache, computed on first use; else the loader."""
        if self.cache is None or self.cache.starts:
            return loader
        return FeatureTestLoader(loader, self.cache, self.data.images, title)

    def train_loader(self, first: int) -> TrainLoader | FeatureTrainLoader | WithUnlabelled:
        """Return shuffled, augmented batches of the training images, with unlabelled ones if the method wants them.

        With a cache, where TRAIN.CACHE says so, they hold features; those from epoch `first` on are computed now.
        """
        cfg, items = self.cfg, self.data.images.train
        views_repeat = cfg.INPUT.TRAIN in FIXED or cfg.TRAIN.VIEWS > 0
        ahead = self.cache is not None and {"off": False, "all": True}.get(cfg.TRAIN.CACHE, views_repeat)
        if not items:
            raise InputError(f"dataset {self.data.card.name!r} has no training images; {WAYS_OUT['train']}")
        few = cfg.DATASET.SHOTS > 0 and len(items) <= KEEP_AT_MOST
        ahead = ahead and self._has_room(len(items))
        loader = self._shuffled(items, keep=few and not ahead)
        span = range(first, epochs(cfg, len(loader)))
        labelled = self._as_features(loader, span, keep=few) if ahead else loader
        if not self.method.wants_unlabelled:
            return labelled
        target = self._shuffled(self._unlabelled(), keep=False)
        target_span = target_epochs(span, len(loader), len(target))
        return WithUnlabelled(labelled, self._as_features(target, target_span, keep=False) if ahead else target)

    def _has_room(self, images: int) -> bool:
        """Return whether a view of the training images fits into half of the free disk space of the cache."""
        if not self.cache or not self.cache.starts or not self.cache.folder:
            return True
        place = next(path for path in (self.cache.folder, *self.cache.folder.absolute().parents) if path.exists())
        needed, free = images * self.cache.bytes_each, shutil.disk_usage(place).free
        if needed > free / 2:
            LOG.info("A view of %s takes %.1f GB: not kept in CACHE_DIR", counted(images, "image"), needed / 1e9)
        return needed <= free / 2

    def _shuffled(self, items: Sequence[Item], *, keep: bool) -> TrainLoader:
        cfg = self.cfg
        return TrainLoader(
            items,
            self.data.images.open,
            transform_of(cfg, self.method, training=True),
            batch_size=cfg.OPTIM.BATCH_SIZE,
            seed=cfg.SEED,
            workers=cfg.TRAIN.WORKERS,
            drop_last=cfg.OPTIM.DROP_LAST,
            views=cfg.TRAIN.VIEWS,
            fixed=cfg.INPUT.TRAIN in FIXED,
            keep=keep,
            part=part(),
            device=self.device,
            twice=self.method.wants_second_view,
            one_class=cfg.OPTIM.ONE_CLASS,
        )

    def _as_features(self, loader: TrainLoader, span: Iterable[int], *, keep: bool) -> FeatureTrainLoader:
        """Return the features of a loader's images; those of the epochs in `span` are computed now."""
        assert self.cache
        features = FeatureTrainLoader(loader, self.cache, self.data.images, self.cfg.TEST.BATCH_SIZE, keep=keep)
        features.prepare(span)
        return features

    def _unlabelled(self) -> list[Item]:
        target, dataset = self.cfg.DATASET.TARGET, f"dataset {self.data.card.name!r}"
        if not self.data.images.unlabelled:
            where = f"the target {target!r} of {dataset}" if target else dataset
            raise InputError(
                f"{where} has no unlabelled images, which {self.cfg.METHOD.NAME} adapts to; name two domains that "
                "have some in DATASET.SOURCE and DATASET.TARGET"
            )
        return self.data.images.unlabelled
