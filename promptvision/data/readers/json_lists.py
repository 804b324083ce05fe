"""VPT's lists of the FGVC five: `train.json`, `val.json` and `test.json`, each `{"path": class id, ...}`."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import all_there, read_lines, read_text, refuse_outside
from promptvision.data.readers.class_names import tell_apart
from promptvision.data.readers.layout import data_root, find_folder
from promptvision.errors import InputError

PARTS = ("train", "val", "test")


def read_json_lists(
    card: Card,
    root: str,
    *,
    folders: list[str],
    images: str = "",
    drop: str = "",
    names: list[str] | None = None,
    name_pattern: str = "",
    names_file: str = "",
) -> Images:
    """`<root>/<one of folders>/{train,val,test}.json`, paths below `images`, in the order of the files.

    Labels are the places of the class ids in the sorted ids of all three files; the official code sorts each file's
    own ids, which agrees only where every file has every class. A path that is not there is tried without its first
    folder `drop`. Class names are the card's `names`, or what the first group of `name_pattern` finds in the paths
    of a class, looked up in the lines `key name` of `names_file` if the data have that file, or "class <id>".
    Source: KMnP/vpt `src/data/datasets/json_dataset.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    top = find_folder(card, folder, [images]) if images else folder
    listed = {part: _entries(card, folder / f"{part}.json") for part in PARTS}
    ids = sorted({number for entries in listed.values() for number in entries.values()})
    if names and len(names) != len(ids):
        raise InputError(f"data set {card.name!r}: {folder} has {len(ids)} classes, the card names {len(names)}")
    table = _table(card, folder / names_file) if names_file else {}
    own = names or tell_apart(_found_names(listed, ids, name_pattern, table))
    label = {number: place for place, number in enumerate(ids)}
    prefix = drop.rstrip("/") + "/"
    lists: dict[str, list[Item]] = {
        part: [(_placed(top, path, prefix), label[number], own[label[number]]) for path, number in listed[part].items()]
        for part in PARTS
    }
    all_there(card, " and ".join(f"{folder / part}.json" for part in PARTS), top, lists)
    return Images(lists["train"], lists["val"], lists["test"], partial(open_image, str(top)), str(top))


def _entries(card: Card, file: Path) -> dict[str, int]:
    try:
        entries = json.loads(read_text(card, file, "list"))
    except ValueError as error:
        raise InputError(f"list {file} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise InputError(f"list {file} must be an object of paths and class ids")
    for path, number in entries.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError(f"list {file}, {path!r}: the class id must be an integer, found {number!r}")
        refuse_outside(f"list {file}", path)
    return entries


def _placed(top: Path, path: str, prefix: str) -> str:
    """The path, or if it is not there the path without its prefix."""
    bare = path.removeprefix(prefix)
    return bare if bare != path and not (top / path).is_file() else path


def _table(card: Card, file: Path) -> dict[str, str]:
    """`817 Oak Titmouse` -> {"817": "Oak Titmouse"}; empty if the data lack the file."""
    lines = read_lines(card, file, "list of class names") if file.is_file() else []
    return {key.lstrip("0") or "0": name for key, _, name in (line.partition(" ") for line in lines)}


def _found_names(listed: dict[str, dict[str, int]], ids: list[int], pattern: str, table: dict[str, str]) -> list[str]:
    first: dict[int, str] = {}
    for entries in listed.values():
        for path, number in entries.items():
            first.setdefault(number, path)
    found = {number: re.search(pattern, path) if pattern else None for number, path in first.items()}
    keys = {number: match[1] if match else f"{number}" for number, match in found.items()}
    other = {number: match[1] if match else f"class {number}" for number, match in found.items()}
    return [table.get(keys[number].lstrip("0") or "0", other[number]) for number in ids]
