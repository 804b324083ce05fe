"""Your own images: one folder per class, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import SUFFIXES, open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.default_split import FOLDERS, complete
from promptvision.data.readers.layout import data_root, folders_in, missing, names_in, refuse_folder
from promptvision.data.readers.names import class_names, read_names
from promptvision.data.readers.paths import composed


def read_folder(card: Card, root: str, faults: Faults) -> Images:
    """Read `<root>/<class>/**` or `<root>/{train,val,test}/<class>/**`; labels follow the sorted folder names.

    Class names are folder names, in Unicode's composed form, or those that `<root>/names.txt` gives. Missing splits
    are made by `default_split.complete`. Ignored are hidden files, files without the suffix of an image (in any
    case), and folders beside train, val and test. Symbolic links are followed, but to each folder once.
    """
    top = data_root(card, root, otherwise="")
    listings = {split: _list_classes(card, top, folder) for split, folder in split_folders(top).items()}
    found = []
    for name in sorted({name for listing in listings.values() for name in listing}):
        with faults:
            if not any(listing.get(name) for listing in listings.values()):
                raise missing(card, f"the class folder {name!r} under {top} holds no images ({', '.join(SUFFIXES)})")
            found.append(name)
    names = class_names(found, read_names(top), top)
    given: dict[str, list[Item]] = {}
    for split, listing in listings.items():
        given[split] = [(path, label, names[own]) for label, own in enumerate(names) for path in listing.get(own, [])]
    return Images(*complete(given), partial(open_image, str(top)), str(top))


def split_folders(top: Path) -> dict[str, str]:
    """Return split -> its folder; without splits, or with a train folder alone, "" -> the folder of the classes."""
    inner = folders_in(top)
    given = {FOLDERS[name.lower()]: name for name in inner if name.lower() in FOLDERS}
    if len(given) > 1 and "train" in given:
        return given
    lone = len(inner) == 1 and inner[0].lower() == "train" and folders_in(top / inner[0])
    return {"": inner[0] if lone else ""}


def _list_classes(card: Card, top: Path, folder: str) -> dict[str, list[str]]:
    """Return name of a class folder -> sorted paths of its images, relative to the root, with forward slashes."""
    place = top / folder
    classes = folders_in(place)
    if not classes:
        loose = any(name.lower().endswith(SUFFIXES) for name in names_in(place))
        raise missing(card, f"{place} holds {'images but ' if loose else ''}no folders of classes")
    listing: dict[str, list[str]] = {}
    for name in classes:
        own = [path.relative_to(top).as_posix() for path in images_under(place / name)]
        listing[composed(name)] = sorted([*listing.get(composed(name), []), *own])
    return listing


def images_under(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted, without hidden ones; links are followed, but to each folder once."""
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for place, inner, files in os.walk(folder, onerror=refuse_folder, followlinks=True):
        entered = []
        for name in sorted(inner):
            real = os.path.realpath(os.path.join(place, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                entered.append(name)
        inner[:] = entered
        found += [Path(place, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found, key=lambda path: path.as_posix())
