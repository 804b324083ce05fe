"""Somebody's own pictures: one folder per class, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from promptvision.data.files import data_root, missing, names_in, open_picture
from promptvision.data.pictures import Item, Pictures
from promptvision.data.splits import read_and_split, split_trainval
from promptvision.errors import InputError

if TYPE_CHECKING:
    from promptvision.data.cards import Card

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SEED = 1
"""Of the splits made here: fixed, so that they depend on file names alone and never change between runs."""

Listing = dict[str, list[str]]
Lists = tuple[list[Item], list[Item], list[Item]]


def read_folder(card: Card, root: str) -> Pictures:
    """`<root>/<class>/**` or `<root>/{train,val,test}/<class>/**`; class names are folder names, labels sorted.

    Without splits, 50/20/30 of every class (`read_and_split`). With train and test only, 20 % of train validates;
    with train and val only, val is tested on, and 20 % of train validates. Left out are hidden files, files
    without the suffix of a picture (in any case), and folders beside train, val and test.
    """
    top = data_root(card, root, otherwise="")
    given = {PARTS[name.lower()]: name for name in _folders(top) if name.lower() in PARTS}
    lists = _given_splits(card, top, given) if len(given) > 1 and "train" in given else _fresh_splits(card, top)
    return Pictures(*lists, partial(open_picture, str(top)), str(top))


def _folders(place: Path) -> list[str]:
    return [name for name in names_in(place) if os.path.isdir(place / name)]


def _fresh_splits(card: Card, top: Path) -> Lists:
    """50/20/30 of the class folders, which may lie in a lone train folder."""
    inner = _folders(top)
    lone = len(inner) == 1 and inner[0].lower() == "train" and _folders(top / inner[0])
    listing = _listing(card, top, inner[0] if lone else "")
    _refuse_empty(card, top, listing)
    return read_and_split(listing, SEED)


def _given_splits(card: Card, top: Path, given: dict[str, str]) -> Lists:
    listings = {part: _listing(card, top, folder) for part, folder in given.items()}
    names = sorted({name for listing in listings.values() for name in listing})
    merged = {name: [path for listing in listings.values() for path in listing.get(name, [])] for name in names}
    _refuse_empty(card, top, merged)
    train, val, test = (_items(listings.get(part, {}), names) for part in ("train", "val", "test"))
    if "val" in given and "test" in given:
        return train, val, test
    fit, held_out = split_trainval(train, SEED)
    return fit, held_out, test or val


def _items(listing: Listing, names: list[str]) -> list[Item]:
    return [(path, label, name) for label, name in enumerate(names) for path in listing.get(name, [])]


def _listing(card: Card, top: Path, part: str) -> Listing:
    """Class name -> sorted paths of its pictures, relative to the root, with forward slashes."""
    folder = top / part
    names = _folders(folder)
    if not names:
        loose = any(name.lower().endswith(SUFFIXES) for name in names_in(folder))
        state = "pictures but no folders of classes" if loose else "no folders of classes"
        raise missing(card, f"{folder} holds {state}")
    return {name: [path.relative_to(top).as_posix() for path in _pictures_under(folder / name)] for name in names}


def _pictures_under(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, inner, files in os.walk(folder, onerror=_refuse_unreadable):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(place, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found, key=lambda path: path.as_posix())


def _refuse_unreadable(error: OSError) -> None:
    raise InputError(f"folder {error.filename} cannot be read: {error.strerror}")


def _refuse_empty(card: Card, top: Path, listing: Listing) -> None:
    for name, paths in listing.items():
        if not paths:
            raise missing(card, f"the class folder {name!r} under {top} holds no pictures ({', '.join(SUFFIXES)})")
