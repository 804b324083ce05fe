"""Somebody's own images: one folder per class, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import SUFFIXES, open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.default_split import PARTS, complete
from promptvision.data.readers.layout import data_root, missing, names_in
from promptvision.data.readers.names import class_names, composed, read_names
from promptvision.errors import InputError

Listing = dict[str, list[str]]


def read_folder(card: Card, root: str) -> Images:
    """`<root>/<class>/**` or `<root>/{train,val,test}/<class>/**`; labels follow the sorted folder names.

    Class names are folder names, in Unicode's composed form, or what `<root>/names.txt` says of them. Missing splits
    are made by `own_splits.complete`. Left out are hidden files, files without the suffix of an image (in any case),
    and folders beside train, val and test. Symbolic links are followed, to each folder once.
    """
    top = data_root(card, root, otherwise="")
    parts = _part_folders(top)
    listings = {part: _listing(card, top, folder) for part, folder in parts.items()}
    found = sorted({name for listing in listings.values() for name in listing})
    for name in found:
        if not any(listing.get(name) for listing in listings.values()):
            raise missing(card, f"the class folder {name!r} under {top} holds no images ({', '.join(SUFFIXES)})")
    names = class_names(found, read_names(top), top)
    given = {part: _items(listing, names) for part, listing in listings.items()}
    return Images(*complete(given), partial(open_image, str(top)), str(top))


def _part_folders(top: Path) -> dict[str, str]:
    """Part -> its folder; "" -> the folder of the class folders, where there are no parts but perhaps a lone train."""
    inner = _folders(top)
    given = {PARTS[name.lower()]: name for name in inner if name.lower() in PARTS}
    if len(given) > 1 and "train" in given:
        return given
    lone = len(inner) == 1 and inner[0].lower() == "train" and _folders(top / inner[0])
    return {"": inner[0] if lone else ""}


def _folders(place: Path) -> list[str]:
    return [name for name in names_in(place) if os.path.isdir(place / name)]


def _items(listing: Listing, names: dict[str, str]) -> list[Item]:
    return [(path, label, names[own]) for label, own in enumerate(names) for path in listing.get(own, [])]


def _listing(card: Card, top: Path, part: str) -> Listing:
    """Name of a class folder -> sorted paths of its images, relative to the root, with forward slashes."""
    folder = top / part
    names = _folders(folder)
    if not names:
        loose = any(name.lower().endswith(SUFFIXES) for name in names_in(folder))
        state = "images but no folders of classes" if loose else "no folders of classes"
        raise missing(card, f"{folder} holds {state}")
    listing: Listing = {}
    for name in names:
        own = [path.relative_to(top).as_posix() for path in images_under(folder / name)]
        listing[composed(name)] = sorted([*listing.get(composed(name), []), *own])
    return listing


def images_under(folder: Path) -> list[Path]:
    """The images below a folder, sorted; hidden ones left out, links followed, to each folder once: loops end."""
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for place, inner, files in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        inner[:] = [
            name for name in sorted(inner) if not name.startswith(".") and _new(os.path.join(place, name), seen)
        ]
        found += [Path(place, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found, key=lambda path: path.as_posix())


def _new(folder: str, seen: set[str]) -> bool:
    """Whether a folder is not `seen` yet, under any name; now it is."""
    real = os.path.realpath(folder)
    return real not in seen and not seen.add(real)  # type: ignore[func-returns-value]


def _refuse_unreadable(error: OSError) -> None:
    raise InputError(f"folder {error.filename} cannot be read: {error.strerror}")
