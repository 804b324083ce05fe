"""The splits of your own images: given splits are kept, and missing splits are made in a reproducible way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from promptvision.data.images import Item
from promptvision.data.readers.list_rows import Row
from promptvision.data.readers.names import label_table, whole_numbers
from promptvision.data.splits import read_and_split, split_trainval
from promptvision.errors import InputError

SEED = 1
"""Seed of the splits made here: fixed, so that they depend on names alone and never change between runs."""

Lists = tuple[list[Item], list[Item], list[Item]]


def split_rows(rows: Sequence[Row], source: Path, names: Mapping[str, str]) -> Lists:
    """Return the train, val and test items of rows with labels. InputError if only some rows name their split."""
    rows = whole_numbers(rows)
    bare = [row.place for row in rows if not row.split]
    if bare and len(bare) < len(rows):
        raise InputError(f"{bare[0]}: no split, though other images have one; give one to all of them, or to none")
    labels = label_table(rows, source, names)
    given: dict[str, list[Item]] = {}
    for row in rows:
        given.setdefault(row.split, []).append((row.path, *labels[row.label]))
    return complete(given)


def complete(given: Mapping[str, Sequence[Item]]) -> Lists:
    """Return train, val and test items of the given splits, and make those that are missing.

    Only "train", or "" for no split at all: 50/20/30 of every class (`read_and_split`, over sorted paths). Train and
    test only: 20 % of train validates. Train and val only: val is tested on, and 20 % of train validates. Without
    train a method has nothing to learn from, but something to be tested on.
    """
    lists = {split: list(items) for split, items in given.items() if items}
    if not lists.keys() - {"", "train"}:
        return fresh([*lists.get("", []), *lists.get("train", [])])
    train, val, test = (lists.get(split, []) for split in ("train", "val", "test"))
    if (val and test) or not train:
        return (train, val, test) if test else ([], [], val)
    fit, held_out = split_trainval(train, SEED)
    return fit, held_out, test or val


def fresh(items: Sequence[Item]) -> Lists:
    """Split every class 50/20/30, independent of the order in which the images are listed."""
    names = {f"{label:09d}": name for _, label, name in items}
    listing: dict[str, list[str]] = {label: [] for label in names}
    for path, label, _ in sorted(items):
        listing[f"{label:09d}"].append(path)
    parts = read_and_split(listing, SEED, renames=names)
    labels = [int(label) for label in sorted(names)]
    train, val, test = ([(path, labels[number], name) for path, number, name in part] for part in parts)
    return train, val, test
