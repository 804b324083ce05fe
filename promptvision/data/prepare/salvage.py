"""Lists of a data set that its reader refuses: what can be made of them, and each thing that is wrong, not the first.

For `tools/data.py check` alone: nothing trains on these lists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import read_lines, refuse_label, refuse_outside
from promptvision.data.readers.coop_split import PARTS, read_entry
from promptvision.data.readers.default_split import PARTS as PART_FOLDERS
from promptvision.data.readers.default_split import complete
from promptvision.data.readers.folder import images_under
from promptvision.data.readers.layout import data_root, find_folder, names_in
from promptvision.errors import InputError

Salvaged = tuple[Images, list[str]]
"""What could be read, and a sentence for everything that could not."""
T = TypeVar("T")


def salvage(card: Card, root: str, domain: str = "") -> Salvaged | None:
    """None where the layout is not known well enough, or too little of it is there."""
    if card.reader not in SALVAGE:
        return None
    try:
        return SALVAGE[card.reader](card, root, {**card.options, **card.domains.get(domain, {})})
    except (InputError, OSError, ValueError):
        return None


def _good(entries: Iterable[T], read: Callable[[int, T], Item]) -> tuple[list[Item], list[str]]:
    """The items of the entries that can be read, and the sentences of the others."""
    good, wrong = [], []
    for number, entry in enumerate(entries):
        try:
            good.append(read(number, entry))
        except InputError as error:
            wrong.append(str(error))
    return good, wrong


def _images(top: Path, lists: dict[str, list[Item]]) -> Images:
    train, val, test = (lists.get(part, []) for part in PARTS)
    return Images(train, val, test, partial(open_image, str(top)), str(top))


def _coop_split(card: Card, root: str, options: dict[str, Any]) -> Salvaged:
    top = find_folder(card, data_root(card, root), options["folders"])
    file = top / options["split"]
    images = find_folder(card, top, [options["images"]])
    split = json.loads(file.read_text(encoding="utf-8"))
    lists: dict[str, list[Item]] = {}
    wrong = []
    for part in PARTS:

        def read(number: int, entry: object, part: str = part) -> Item:
            return read_entry(entry, card.classes, f"{file.name}, {part}[{number}]")

        own = split.get(part) if isinstance(split, dict) else None
        lists[part], told = _good(own if isinstance(own, list) else [], read)
        wrong += told
    return _images(images, lists), wrong


def _text_lists(card: Card, root: str, options: dict[str, Any]) -> Salvaged:
    top = find_folder(card, data_root(card, root), options["folders"])
    names, images = options.get("names"), options.get("images", "")
    lists: dict[str, list[Item]] = {}
    wrong = []
    for part, name in options["lists"].items():

        def read(number: int, line: str, place: str = f"{part} list {top / name}") -> Item:
            path, _, label = line.rpartition(" ")
            if not path or not label.isdecimal():
                raise InputError(f"{place}, entry {number + 1}: expected a path and a label, found {line!r}")
            refuse_label(f"{place}, entry {number + 1}", int(label), len(names) if names else card.classes)
            refuse_outside(f"{place}, entry {number + 1}", path)
            own = names[int(label)] if names else PurePosixPath(path).parent.name
            return f"{images}/{path}" if images else path, int(label), own

        try:
            lists[part], told = _good(read_lines(card, top / name, f"{part} list"), read)
            wrong += told
        except InputError as error:
            wrong.append(str(error))
    return _images(top, lists), wrong


def _json_lists(card: Card, root: str, options: dict[str, Any]) -> Salvaged:
    top = find_folder(card, data_root(card, root), options["folders"])
    images = find_folder(card, top, [options["images"]]) if options.get("images") else top
    lists: dict[str, list[Item]] = {}
    wrong = []
    for part in PARTS:

        def read(number: int, entry: tuple[str, object], place: str = f"list {top / part}.json") -> Item:
            path, label = entry
            refuse_outside(place, path)
            if not isinstance(label, int) or isinstance(label, bool):
                raise InputError(f"{place}, {path!r}: the class id must be an integer, found {label!r}")
            bare = path.removeprefix(options.get("drop", "").rstrip("/") + "/")
            return path if (images / path).is_file() else bare, label, f"class {label}"

        try:
            entries = json.loads((top / f"{part}.json").read_text(encoding="utf-8"))
            lists[part], told = _good(entries.items() if isinstance(entries, dict) else [], read)
            wrong += told
        except (OSError, ValueError) as error:
            wrong.append(f"list {top / part}.json cannot be read: {getattr(error, 'strerror', None) or error}")
    return _images(images, lists), wrong


def _folder(card: Card, root: str, options: dict[str, Any]) -> Salvaged:
    """Class folders without those that are empty."""
    top = data_root(card, root, otherwise="")
    given = {PART_FOLDERS[name.lower()]: top / name for name in _folders(top) if name.lower() in PART_FOLDERS}
    found = {part: _classes(top, place) for part, place in (given if len(given) > 1 else {"": top}).items()}
    names = sorted({name for classes in found.values() for name, paths in classes.items() if paths})
    lists = {
        part: [(path, label, name) for label, name in enumerate(names) for path in classes.get(name, [])]
        for part, classes in found.items()
    }
    empty = sorted({name for classes in found.values() for name in classes} - set(names))
    wrong = [f"the class folder {name!r} under {top} holds no images" for name in empty]
    return _images(top, dict(zip(PARTS, complete(lists), strict=True))), wrong


def _classes(top: Path, place: Path) -> dict[str, list[str]]:
    """Class folder -> its images, relative to the top."""
    return {name: [path.relative_to(top).as_posix() for path in images_under(place / name)] for name in _folders(place)}


def _folders(place: Path) -> list[str]:
    return [name for name in names_in(place) if os.path.isdir(place / name)]


SALVAGE: dict[str, Callable[[Card, str, dict[str, Any]], Salvaged]] = {
    "coop_split": _coop_split,
    "text_lists": _text_lists,
    "json_lists": _json_lists,
    "folder": _folder,
}
"""Reader -> how its layout is read where it is faulty."""
