"""The images and classes of a configured run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from yacs.config import CfgNode

from promptvision.data.card import Card
from promptvision.data.cards import load_card
from promptvision.data.domains import read_domains
from promptvision.data.image_cache import CachedImages
from promptvision.data.images import Images, Item
from promptvision.data.long_tail import long_tailed
from promptvision.data.readers import read
from promptvision.data.readers.folder import check_output
from promptvision.data.scan import leave_out_bad
from promptvision.data.splits import class_subset, cross_validation, few_shot, held_out, short_classes, subset_classes
from promptvision.engine.together.stack import Member
from promptvision.errors import InputError, counted, shown
from promptvision.method import Method

LOG = logging.getLogger(__name__)


@dataclass
class Data:
    """The images and classes that a run may use."""

    card: Card
    images: Images
    classes: list[str]
    left_out: list[str] = field(default_factory=list)
    """A sentence for each image that cannot be read, if INPUT.ON_BAD_IMAGE is skip."""
    found: dict[str, int] = field(default_factory=dict)
    """Number of images of each split before SHOTS, CLASSES and the like choose among them."""
    trained: list[str] = field(default_factory=list)
    """Classes of the training images, if DATASET.TRAIN_CLASSES says that they are others than `classes`."""
    everything: Images | None = None
    """All images of the dataset, if TRAIN.CACHE images computes their features at once."""


def load_data(cfg: CfgNode, member: Member | None = None) -> Data:
    """Read the data: few-shot images of all classes first, then the class subset, as published, then the long tail.

    Runs that train together, each a `member`, read the card and the lists of the dataset once.
    """
    wanted = cfg.DATASET
    card, images = member.shared("images", lambda: read_lists(wanted)) if member else read_lists(wanted)
    found = images.counts
    train, val = _pick(cfg, images)
    for name, count in short_classes(images.train, wanted.SHOTS).items():
        LOG.warning(
            "Class %r has only %s for %d shots: all are used", name, counted(count, "training image"), wanted.SHOTS
        )
    which = wanted.CLASSES if wanted.TRAIN_CLASSES == "same" else "all"
    train, unlabelled = (class_subset(items, which, images.classes) for items in (train, images.unlabelled))
    val, test = (class_subset(items, wanted.CLASSES, images.classes) for items in (val, images.test))
    classes, trained = (subset_classes(images.classes, each) for each in (wanted.CLASSES, which))
    if wanted.IMBALANCE > 1:
        train = long_tailed(train, len(trained), wanted.IMBALANCE, cfg.SEED, wanted.IMBALANCE_SHAPE)
    chosen, left_out = _readable(cfg, replace(images, train=train, val=val, test=test, unlabelled=unlabelled))
    used, there = (", ".join(f"{n} {split}" for split, n in each.items() if n) for each in (chosen.counts, found))
    LOG.info("Images used: %s of %s (DATASET.SHOTS %d; 0 takes all)", used, there, wanted.SHOTS)
    everything = _readable(cfg, images)[0] if cfg.TRAIN.CACHE == "images" else None
    return Data(card, chosen, classes, left_out, found, trained, everything)


def read_lists(wanted: CfgNode) -> tuple[Card, Images]:
    """Return the card of the dataset that DATASET describes, and all images of its splits."""
    card = load_card(wanted.NAME)
    if wanted.SOURCE or wanted.TARGET:
        return card, read_domains(card, wanted.ROOT, wanted.SOURCE, wanted.TARGET, wanted.HELD_OUT)
    if wanted.HELD_OUT:
        raise InputError("DATASET.HELD_OUT splits a target domain: name it in DATASET.TARGET")
    return card, read(card, wanted.ROOT)


def check_place(cfg: CfgNode, output: str | Path) -> None:
    """Raise InputError for a folder of runs among the class folders of your own images."""
    if cfg.DATASET.ROOT and load_card(cfg.DATASET.NAME).reader == "folder":
        check_output(cfg.DATASET.ROOT, output)


def match_classes(method: Method, data: Data) -> tuple[Method, Data]:
    """Return method and data with the same classes.

    A method that can name the data's classes names these alone, as in tests on new classes. For a method tied to its
    own, labels are matched by name and all of its classes compete; InputError if it does not know one of the data.
    """
    if data.classes == method.classes:
        return method, data
    try:
        other = method.for_classes(data.classes)
    except InputError as error:
        for name in data.classes:
            if name not in method.classes:
                raise InputError(f"{error}; it does not know class {shown(name)!r}") from error
        label_of = {label: method.classes.index(name) for label, name in enumerate(data.classes)}
        images = data.images
        train, val, test = (
            [(path, label_of[label], name) for path, label, name in items]
            for items in (images.train, images.val, images.test)
        )
        theirs, ours = len(data.classes), len(method.classes)
        LOG.info("The dataset has %d of the %s of the run: all compete", theirs, counted(ours, "class"))
        return method, replace(data, classes=method.classes, images=replace(images, train=train, val=val, test=test))
    trained, new = counted(len(method.classes), "class"), len({*data.classes} - {*method.classes})
    LOG.info("Naming %s, %d of them new: the run was trained on %s", counted(len(data.classes), "class"), new, trained)
    return other, data


def warn_of_empty_classes(data: Data, split: str) -> None:
    """Log the classes without images in a split that has some: a misspelled folder name shows up here."""
    items = getattr(data.images, split)
    present = {label for _, label, _ in items}
    empty = [repr(shown(name)) for label, name in enumerate(data.classes) if label not in present]
    if not items or not empty:
        return
    one, what = len(empty) == 1, {"train": "training", "val": "validation"}.get(split, split)
    who = f"Class {empty[0]} has" if one else f"{len(empty)} classes have"
    effect = "" if split == "train" else f": means over classes leave {'it' if one else 'them'} out"
    more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
    LOG.warning("%s no %s images%s%s", who, what, effect, "" if one else f" ({', '.join(empty[:5])}{more})")


def _pick(cfg: CfgNode, images: Images) -> tuple[list[Item], list[Item]]:
    """Pick training and validation images of all classes.

    DATASET.VALIDATION does not change the training images, unless SHOTS is 0 and it is held_out.
    """
    wanted = cfg.DATASET
    if wanted.FOLDS:
        return _fold(cfg, images)
    shots, most = wanted.SHOTS, wanted.VALIDATION_SHOTS
    train, val = few_shot(images.train, images.val, shots, cfg.SEED, wanted.FEW_SHOT, most)
    if wanted.VALIDATION == "held_out":
        train, val = held_out(images.train, train, shots, cfg.SEED, most)
    elif wanted.VALIDATION != "own":
        val = {"all": list(images.val), "test": list(images.test), "none": []}[wanted.VALIDATION]
    if wanted.TRAIN == "train":
        return train, val
    if wanted.VALIDATION in ("none", "test"):
        raise InputError(
            f"DATASET.TRAIN train+val with DATASET.VALIDATION {wanted.VALIDATION} would train on "
            f"{'test' if wanted.VALIDATION == 'test' else 'no validation'} images: set VALIDATION own or held_out"
        )
    return [*train, *val], []


def _fold(cfg: CfgNode, images: Images) -> tuple[list[Item], list[Item]]:
    """Pick the images of one fold of DATASET.FOLDS; SHOTS chooses among those that train."""
    wanted = cfg.DATASET
    if wanted.FOLDS == 1:
        raise InputError("DATASET.FOLDS 1 would train on nothing: take 2 parts or more, or 0 for no cross-validation")
    if wanted.TRAIN != "train" or wanted.VALIDATION != "own":
        raise InputError("DATASET.FOLDS decides what validates: leave DATASET.TRAIN and DATASET.VALIDATION as they are")
    train, val = cross_validation([*images.train, *images.val], wanted.FOLDS, cfg.SEED)
    return few_shot(train, [], wanted.SHOTS, cfg.SEED, wanted.FEW_SHOT)[0], val


def _readable(cfg: CfgNode, images: Images) -> tuple[Images, list[str]]:
    """Read images from INPUT.CACHE if it is set; with ON_BAD_IMAGE skip, leave out and report unreadable ones."""
    if cfg.INPUT.CACHE:
        if cfg.INPUT.EXIF == "apply":
            raise InputError("INPUT.EXIF apply needs the files: the images in INPUT.CACHE have lost their orientation")
        cache, wanted = CachedImages(cfg.INPUT.CACHE), cfg.INPUT.RESIZE
        if cache.kind.size and cache.kind.resize != wanted:
            raise InputError(
                f"INPUT.CACHE {cfg.INPUT.CACHE} holds copies resized by {cache.kind.resize}, INPUT.RESIZE is {wanted}: "
                f"set it to {cache.kind.resize}, or build another cache with --resize {wanted}"
            )
        images = cache.serve(images)
    if cfg.INPUT.ON_BAD_IMAGE == "skip":
        return leave_out_bad(images, cfg.TRAIN.WORKERS)
    return images, []
