"""What all readers of lists share: lines of a file, paths that stay inside, labels without gaps, images there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from promptvision.data.card import Card
from promptvision.data.decode import SUFFIXES
from promptvision.data.images import Item
from promptvision.data.readers.layout import missing, names_in
from promptvision.errors import InputError


def read_text(card: Card, file: Path, kind: str) -> str:
    """The text of a file that a data set needs; `kind` says what it is."""
    if not os.path.isfile(file):
        raise missing(card, f"the {kind} {file} is missing")
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{kind} {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{kind} {file} is not plain text") from None


def read_lines(card: Card, file: Path, kind: str) -> list[str]:
    """Its lines without the empty ones, stripped."""
    return [line.strip() for line in read_text(card, file, kind).splitlines() if line.strip()]


def refuse_outside(place: str, path: str) -> None:
    """Refuse a listed path that is absolute or climbs out of its folder, in the notation of any system."""
    plain = PurePosixPath(path.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or path[1:2] == ":":
        raise InputError(f"{place}: the path {path!r} leaves the folder of images")


def refuse_label(place: str, label: int, classes: int | None) -> None:
    """Refuse a label below 0 or beyond the number of classes."""
    if label < 0 or (classes is not None and label >= classes):
        raise InputError(f"{place}: label {label} is out of range, the data set has {classes} classes")


def check_labels(place: str, items: Iterable[Item]) -> None:
    """Refuse a label with two names, and labels that are not 0 to n - 1."""
    names: dict[int, str] = {}
    for path, label, name in items:
        if names.setdefault(label, name) != name:
            raise InputError(f"{place}: label {label} is {names[label]!r} and, at {path}, {name!r}")
    absent = sorted(set(range(max(names, default=-1))) - set(names))
    if absent:
        raise InputError(f"{place}: labels must be 0 to n - 1 without gaps, but {absent[0]} never occurs")


def images_in(card: Card, folder: Path) -> list[str]:
    """Sorted names of the images in a class folder, told by their suffix; hidden files are left out."""
    found = [name for name in names_in(folder) if name.lower().endswith(SUFFIXES)]
    if not found:
        raise missing(card, f"the class folder {folder} holds no images ({', '.join(SUFFIXES)})")
    return found


def all_there(card: Card, source: str | Path, folder: Path, lists: Mapping[str, Sequence[Item]]) -> None:
    """Refuse lists of images that are not all in the folder."""
    listed = {path for items in lists.values() for path, _, _ in items}
    absent = sorted(path for path in listed if not os.path.isfile(folder / path))
    if absent:
        share = f"{len(absent)} of the {len(listed)} images that {source} lists are missing"
        raise missing(card, f"{share}, such as {folder / absent[0]}")
