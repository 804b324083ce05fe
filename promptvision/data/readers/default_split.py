"""The lists of somebody's own images: splits that are given are kept, missing ones made, always in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptvision.data.images import Item
from promptvision.data.splits import read_and_split, split_trainval

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""How a folder may call a part -> the part."""
SPLITS = {**PARTS, "training": "train", "dev": "val", "testing": "test"}
"""How a column, or the file of a list, may call a part -> the part."""
SEED = 1
"""Of the splits made here: fixed, so that they depend on names alone and never change between runs."""

Lists = tuple[list[Item], list[Item], list[Item]]


def complete(given: Mapping[str, Sequence[Item]]) -> Lists:
    """Train, validation and test lists of the parts that are there.

    Only "train", or "" for no part at all: 50/20/30 of every class (`read_and_split`, over sorted paths). Train and
    test only: 20 % of train validates. Train and val only: val is tested on, and 20 % of train validates. Without
    train there is nothing to learn from, but something to test on.
    """
    parts = {part: list(items) for part, items in given.items() if items}
    if not parts.keys() - {"", "train"}:
        return fresh([*parts.get("", []), *parts.get("train", [])])
    train, val, test = (parts.get(part, []) for part in ("train", "val", "test"))
    if (val and test) or not train:
        return (train, val, test) if test else ([], [], val)
    fit, held_out = split_trainval(train, SEED)
    return fit, held_out, test or val


def fresh(items: Sequence[Item]) -> Lists:
    """50/20/30 of every class, whatever order the images are listed in."""
    names = {f"{label:09d}": name for _, label, name in items}
    listing: dict[str, list[str]] = {label: [] for label in names}
    for path, label, _ in sorted(items):
        listing[f"{label:09d}"].append(path)
    parts = read_and_split(listing, SEED, renames=names)
    labels = [int(label) for label in sorted(names)]
    train, val, test = ([(path, labels[number], name) for path, number, name in part] for part in parts)
    return train, val, test
