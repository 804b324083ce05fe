"""Domains of one data set: train and validate on sources, test on targets, whose images may be seen unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.images import Images, Item, join
from promptvision.data.readers import read
from promptvision.data.splits import split_trainval
from promptvision.errors import InputError

SEED = 1
"""Of the target images held out for the test: fixed, so that every run is tested on the same ones."""


def read_domains(card: Card, root: str | Path, source: str, target: str, held_out: float = 0.0) -> Images:
    """Training and validation images of `source`, test and unlabelled images of `target`.

    Both are domains of the card, several joined by commas, "" for all of them. Unlabelled are the target's training
    images, and all of it where it has no lists of its own: then an image is both unlabelled and tested, as
    published (Dassl's Office-Home, Office-31, VisDA-17), or the share `held_out` of every class is tested and the
    rest unlabelled. Labels are those of the source, and both must have the same classes.
    """
    learned, met = _together(card, root, source), _together(card, root, target)
    classes = learned.classes
    _same_classes(card, source, target, classes, met.classes)
    if not learned.train:
        raise InputError(f"{_place(card, 'source', source)} has no training images: it can only be a target")
    unlabelled, test = _target_lists(card, target, met, held_out)
    train, val, unlabelled, test = (
        _relabelled(items, classes) for items in (learned.train, learned.val, unlabelled, test)
    )
    if not {path for path, _, _ in train}.isdisjoint(path for path, _, _ in test):
        where = f"{_place(card, 'source', source)} and its target {target or 'all'!r}"
        raise InputError(f"{where} share images: tests would be on training images, so name other domains")
    labelled = Images(train, val, [], learned.open, learned.root)
    return join([labelled, Images([], [], test, met.open, met.root, unlabelled)])


def _together(card: Card, root: str | Path, domains: str) -> Images:
    names = [name.strip() for name in domains.split(",") if name.strip()]
    parts = [read(card, root, name) for name in names or [""]]
    return parts[0] if len(parts) == 1 else join(parts)


def _place(card: Card, role: str, domains: str) -> str:
    return f"data set {card.name!r}: the {role} {domains or 'all'!r}"


def _same_classes(card: Card, source: str, target: str, ours: Sequence[str], theirs: Sequence[str]) -> None:
    sides = (("source", source, ours), ("target", target, theirs))
    for (role, domains, names), (other, _, known) in (sides, sides[::-1]):
        absent = [name for name in names if name not in known]
        if absent:
            raise InputError(f"{_place(card, role, domains)} has the class {absent[0]!r}, which the {other} lacks")


def _target_lists(card: Card, target: str, met: Images, held_out: float) -> tuple[list[Item], list[Item]]:
    """What of the target is seen unlabelled, and what is tested."""
    unlabelled, test = met.train or met.test, met.test or met.train
    if not held_out:
        return unlabelled, test
    if unlabelled != test:
        raise InputError(
            f"{_place(card, 'target', target)} has test images of its own: leave DATASET.HELD_OUT at 0, for they "
            "are held out already"
        )
    return split_trainval(unlabelled, SEED, held_out)


def _relabelled(items: Sequence[Item], classes: Sequence[str]) -> list[Item]:
    label = {name: number for number, name in enumerate(classes)}
    return [(path, label[name], name) for path, _, name in items]
