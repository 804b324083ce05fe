"""Domains of one dataset: train and validate on sources, test on targets, whose images may be seen unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.images import Images, Item, join
from promptvision.data.readers import read
from promptvision.data.splits import split_trainval
from promptvision.errors import InputError

SEED = 1
"""Seed of the target images held out for the test; fixed, so that every run is tested on the same images."""


def read_domains(card: Card, root: str | Path, source: str, target: str, held_out: float = 0.0) -> Images:
    """Return training and validation images of `source`, test and unlabelled images of `target`.

    Both are domains of the card, several joined by commas, "" for all of them. The unlabelled images are the target's
    training images. If the target has no lists of its own, they are all of it: then an image is both unlabelled and
    tested, as published (Dassl's Office-Home, Office-31, VisDA-17), or the share `held_out` of every class is tested
    and the rest unlabelled. Labels are those of the source, and both must have the same classes.
    """
    learned, met = _read_all(card, root, source), _read_all(card, root, target)
    here, there = (
        f"dataset {card.name!r}: the {role} {names or 'all'!r}"
        for role, names in (("source", source), ("target", target))
    )
    _check_classes(here, learned.classes, "target", met.classes)
    _check_classes(there, met.classes, "source", learned.classes)
    if not learned.train:
        raise InputError(f"{here} has no training images: it can only be a target")
    label = {name: number for number, name in enumerate(learned.classes)}
    train, val, unlabelled, test = (
        [(path, label[name], name) for path, _, name in items]
        for items in (learned.train, learned.val, *_target_lists(there, met, held_out))
    )
    if {path for path, _, _ in train} & {path for path, _, _ in test}:
        where = f"{here} and its target {target or 'all'!r}"
        raise InputError(f"{where} share images: tests would be on training images, so name other domains")
    labelled = Images(train, val, [], learned.open, learned.root)
    return join([labelled, Images([], [], test, met.open, met.root, unlabelled)])


def _read_all(card: Card, root: str | Path, domains: str) -> Images:
    """Return the images of several domains as one dataset."""
    names = [name.strip() for name in domains.split(",") if name.strip()]
    parts = [read(card, root, name) for name in names or [""]]
    return parts[0] if len(parts) == 1 else join(parts)


def _check_classes(where: str, classes: Sequence[str], other: str, known: Sequence[str]) -> None:
    """Raise InputError for a class that the other side lacks."""
    absent = [name for name in classes if name not in known]
    if absent:
        raise InputError(f"{where} has the class {absent[0]!r}, which the {other} lacks")


def _target_lists(where: str, target: Images, held_out: float) -> tuple[list[Item], list[Item]]:
    """Return the unlabelled and the test images of a target."""
    unlabelled, test = target.train or target.test, target.test or target.train
    if not held_out:
        return unlabelled, test
    if unlabelled != test:
        raise InputError(f"{where} has its own test images, which are held out already: leave DATASET.HELD_OUT at 0")
    return split_trainval(unlabelled, SEED, held_out)
