"""CoOp's split files: `split_zhou_*.json` beside a folder of images."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import all_there, check_labels, refuse_label, refuse_outside
from promptvision.data.readers.layout import data_root, find_folder, missing
from promptvision.errors import InputError

PARTS = ("train", "val", "test")


def read_coop_split(card: Card, root: str, *, folders: list[str], images: str, split: str) -> Images:
    """`<root>/<one of folders>/<split>` lists the inner, paths below `<root>/<that folder>/<images>`.

    A missing split file is never replaced by a fresh random one: results would not be those of the benchmark.
    """
    folder = find_folder(card, data_root(card, root), folders)
    file = folder / split
    if not os.path.isfile(file):
        told = missing(card, f"the split file {file} is missing")
        offer = f"make another split, not the published one, with `python tools/data.py split {card.name}`"
        raise InputError(f"{told}, or {offer}")
    lists = read_split(file, card.classes)
    inner = find_folder(card, folder, [images])
    all_there(card, file, inner, lists)
    return Images(lists["train"], lists["val"], lists["test"], partial(open_image, str(inner)), str(inner))


def read_split(file: Path, classes: int | None) -> dict[str, list[Item]]:
    """`{"train" | "val" | "test": [[path, label, class name], ...]}`, checked; labels must be 0 .. n - 1."""
    try:
        split = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"split file {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"split file {file} is not JSON: {error}") from None
    for part in PARTS:
        if not isinstance(split, dict) or not isinstance(split.get(part), list):
            raise InputError(f"split file {file} has no list {part!r}")
    lists = {
        part: [read_entry(entry, classes, f"split file {file}, {part}[{n}]") for n, entry in enumerate(split[part])]
        for part in PARTS
    }
    check_labels(f"split file {file}", [item for part in PARTS for item in lists[part]])
    return lists


def read_entry(entry: object, classes: int | None, place: str) -> Item:
    """One `[path, label, class name]`; InputError names the `place` of a wrong one."""
    if not isinstance(entry, list) or len(entry) != 3:
        raise InputError(f"{place}: expected [path, label, class name], found {entry!r}")
    path, label, name = entry
    if not isinstance(path, str) or not isinstance(name, str) or not path or not name:
        raise InputError(f"{place}: path and class name must be texts, found {entry!r}")
    if not isinstance(label, int) or isinstance(label, bool):
        raise InputError(f"{place}: the label must be an integer, found {label!r}")
    refuse_label(place, label, classes)
    refuse_outside(place, path)
    return path, label, name
