"""CoOp's split files: `split_zhou_*.json` beside a folder of images."""

from __future__ import annotations

import os
from pathlib import Path

from promptvision.atomic import read_json
from promptvision.data.card import Card
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import Faults, check_label, listed_images
from promptvision.data.readers.layout import data_root, find_folder, missing
from promptvision.data.readers.paths import listed_path
from promptvision.errors import InputError, as_called

SPLITS = ("train", "val", "test")


def read_coop_split(card: Card, root: str, faults: Faults, *, folders: list[str], images: str, split: str) -> Images:
    """Read `<root>/<one of folders>/<split>`, whose paths are below `<root>/<that folder>/<images>`.

    A missing split file is never replaced by a new random one: results would not be those of the benchmark.
    """
    folder = find_folder(card, data_root(card, root), folders)
    file = folder / split
    if not os.path.isfile(file):
        lacks = missing(card, f"the split file {file} is missing")
        command = as_called(f"python tools/data.py split {card.name}")
        raise InputError(f"{lacks}, or make another split, not the published one, with `{command}`")
    inner = find_folder(card, folder, [images])
    return listed_images(card, [file], inner, read_split(file, card.classes, inner, faults), faults)


def read_split(file: Path, classes: int | None, images: Path, faults: Faults) -> dict[str, list[Item]]:
    """Read `{"train" | "val" | "test": [[path, label, class name], ...]}`, with paths below the folder `images`."""
    found = read_json(file)
    lists: dict[str, list[Item]] = {}
    for split in SPLITS:
        if not isinstance(found, dict) or not isinstance(found.get(split), list):
            raise InputError(f"split file {file} has no list {split!r}")
        lists[split] = []
        for number, entry in enumerate(found[split]):
            with faults:
                lists[split].append(read_entry(entry, classes, images, f"split file {file}, {split}[{number}]"))
    return lists


def read_entry(entry: object, classes: int | None, images: Path, place: str) -> Item:
    """Return one `[path, label, class name]` as an item. InputError, which begins with `place`, if it is wrong."""
    if not isinstance(entry, list) or len(entry) != 3:
        raise InputError(f"{place}: expected [path, label, class name], found {entry!r}")
    path, label, name = entry
    if not isinstance(path, str) or not isinstance(name, str) or not path or not name:
        raise InputError(f"{place}: path and class name must be texts, found {entry!r}")
    if name.encode("utf-8", "ignore").decode() != name:
        raise InputError(f"{place}: the class name {ascii(name)} is not text in UTF-8: rename it")
    if not isinstance(label, int) or isinstance(label, bool):
        raise InputError(f"{place}: the label must be an integer, found {label!r}")
    check_label(place, label, classes)
    return listed_path(path, images, place), label, name
