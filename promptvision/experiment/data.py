"""What a configured run looks at: its images and classes, and the loaders that bring them, or their features."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from yacs.config import CfgNode

from promptvision.data.card import Card
from promptvision.data.cards import load_card
from promptvision.data.domains import read_domains
from promptvision.data.image_cache import CachedImages
from promptvision.data.images import Images, Item
from promptvision.data.long_tail import long_tailed
from promptvision.data.readers import read
from promptvision.data.scan import leave_out_bad
from promptvision.data.splits import class_subset, few_shot, held_out, short_classes, subset_classes
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)


@dataclass
class Data:
    """The images and classes a run may see."""

    card: Card
    images: Images
    classes: list[str]
    left_out: list[str] = field(default_factory=list)
    """A sentence for each image that cannot be read, where INPUT.ON_BAD_IMAGE is skip."""


def load_data(cfg: CfgNode) -> Data:
    """Few-shot picks first, from all classes, then the class subset, as published, then its long tail."""
    wanted, card = cfg.DATASET, load_card(cfg.DATASET.NAME)
    images = _read(card, wanted)
    train, val = _picked(cfg, images)
    for name, count in short_classes(images.train, wanted.SHOTS).items():
        LOG.warning("class %r has only %d training images for %d shots: all are used", name, count, wanted.SHOTS)
    train, val, test, unlabelled = (
        class_subset(items, wanted.CLASSES, images.classes) for items in (train, val, images.test, images.unlabelled)
    )
    classes = subset_classes(images.classes, wanted.CLASSES)
    if wanted.IMBALANCE > 1:
        train = long_tailed(train, len(classes), wanted.IMBALANCE, cfg.SEED, wanted.IMBALANCE_SHAPE)
    chosen = replace(images, train=train, val=val, test=test, unlabelled=unlabelled)
    return Data(card, *_readable(cfg, chosen, classes))


def _readable(cfg: CfgNode, images: Images, classes: list[str]) -> tuple[Images, list[str], list[str]]:
    """Images from the files or INPUT.CACHE, perhaps without those that cannot be read; classes; what is left out."""
    if cfg.INPUT.CACHE:
        if cfg.INPUT.EXIF == "apply":
            raise InputError("INPUT.EXIF apply needs the files: the images in INPUT.CACHE have lost their orientation")
        images = CachedImages(cfg.INPUT.CACHE).serve(images)
    left_out: list[str] = []
    if cfg.INPUT.ON_BAD_IMAGE == "skip":
        images, left_out = leave_out_bad(images, cfg.TRAIN.WORKERS)
    return images, classes, left_out


def _read(card: Card, wanted: CfgNode) -> Images:
    """The data set, or its source and target."""
    if wanted.SOURCE or wanted.TARGET:
        return read_domains(card, wanted.ROOT, wanted.SOURCE, wanted.TARGET, wanted.HELD_OUT)
    if wanted.HELD_OUT:
        raise InputError("DATASET.HELD_OUT parts a target domain: name it in DATASET.TARGET")
    return read(card, wanted.ROOT)


def _picked(cfg: CfgNode, images: Images) -> tuple[list[Item], list[Item]]:
    """Training and validation images of all classes; the former do not depend on where the latter come from, but
    where every image is trained on and some of them are to be held out."""
    wanted = cfg.DATASET
    train, val = few_shot(images.train, images.val, wanted.SHOTS, cfg.SEED, wanted.FEW_SHOT)
    if wanted.VALIDATION == "held_out":
        train, val = held_out(images.train, train, wanted.SHOTS, cfg.SEED)
    elif wanted.VALIDATION != "own":
        val = list(images.test) if wanted.VALIDATION == "test" else []
    if wanted.TRAIN == "train":
        return train, val
    if wanted.VALIDATION in ("none", "test"):
        raise InputError(
            f"DATASET.TRAIN train+val with DATASET.VALIDATION {wanted.VALIDATION} would train on "
            f"{'test' if wanted.VALIDATION == 'test' else 'no validation'} images: set VALIDATION own or held_out"
        )
    return [*train, *val], []
