"""Your own images: one folder per class, with or without train, val and test folders above them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.default_split import complete
from promptvision.data.readers.layout import data_root, folders_in, hidden, list_folder, missing
from promptvision.data.readers.names import class_names, in_order, read_classes, read_names
from promptvision.data.readers.paths import composed
from promptvision.data.readers.search import LeftOut, chosen, search
from promptvision.data.readers.words import split_word
from promptvision.errors import InputError, shown


def read_folder(card: Card, root: str, faults: Faults) -> Images:
    """Read `<root>/<class>/**` or `<root>/{train,val,test}/<class>/**`; labels follow the sorted folder names.

    `<root>/classes.txt` gives another order. Class names are folder names, in Unicode's composed form, or those that
    `<root>/names.txt` gives. Missing splits are made by `default_split.complete`. `search.search` says which files
    are read; a note says how many others there are.
    """
    top = data_root(card, root, otherwise="")
    folders, left_out = split_folders(top), LeftOut()
    listings = {split: _list_classes(card, top, folder, left_out) for split, folder in folders.items()}
    if folders.keys() != {""}:
        beside = (name for name in folders_in(top) if name not in {path.split("/")[0] for path in folders.values()})
        for name in beside:
            for path in search(top / name, LeftOut()):
                left_out.add(path, "image", why=" outside the folders of the splits")
    for sentence in [*left_out.sentences(top), *_deeper(folders.values(), listings.values())]:
        faults.note(f"{top}: {sentence}")
    found = []
    for name in sorted({name for listing in listings.values() for name in listing}):
        with faults:
            if not any(listing.get(name) for listing in listings.values()):
                raise missing(card, f"the class folder {name!r} under {top} holds no images (.jpg, .png ...)")
            found.append(name)
    names = class_names(*in_order(found, read_classes(top), read_names(top), top), top)
    given: dict[str, list[Item]] = {}
    for split, listing in listings.items():
        given[split] = [(path, label, names[own]) for label, own in enumerate(names) for path in listing.get(own, [])]
    return Images(*complete(given), partial(open_image, str(top)), str(top))


def check_output(root: str, output: str | Path) -> None:
    """Raise InputError for a folder of runs among the class folders, where it would be taken for a class."""
    top, place = Path(root).expanduser().resolve(), Path(output).resolve()
    if not os.path.isdir(top):
        return
    for folder in split_folders(top).values():
        if place.is_relative_to(top / folder) and not any(map(hidden, place.relative_to(top / folder).parts)):
            raise InputError(
                f"the output {output} is inside the folder of images {root}, where it would be taken for a class; "
                f"choose one elsewhere, such as {top.parent / place.name}"
            )


def _deeper(folders: Iterable[str], listings: Iterable[Mapping[str, Sequence[str]]]) -> list[str]:
    """Return a sentence if the folders inside those of the classes are probably the classes; else nothing.

    None of the class folders holds an image itself, and there is one of them, or two have a folder of one name inside.
    """
    inner: dict[str, set[str]] = {}
    for folder, listing in zip(folders, listings, strict=True):
        for name, paths in listing.items():
            below = [path.split("/")[len(Path(folder).parts) + 1 : -1] for path in paths]
            if not all(below):
                return []
            inner.setdefault(name, set()).update(parts[-1] for parts in below)
    count = Counter(name for own in inner.values() for name in own)
    likely = sorted(name for name in count if len(inner) == 1 or count[name] > 1)
    if len(likely) < 2:
        return []
    outer, names = (", ".join(repr(shown(name)) for name in each[:3]) for each in (sorted(inner), likely))
    advice = "set DATASET.ROOT to the folder that holds them, or name the folders above them train and test"
    return [f"the classes are {outer}; if they are rather the folders inside, {names} ..., {advice}"]


def split_folders(top: Path) -> dict[str, str]:
    """Return split -> its folder; without splits, or with a train folder alone, "" -> the folder of the classes.

    Folders are splits if two of them are named so, or if no other folder holds images: "train" may be a class beside
    others. A folder that holds nothing else than the folders of splits is entered (an archive unpacked in its own).
    """
    inner = folders_in(top)
    if len(inner) == 1 and not split_word(inner[0]):
        below = split_folders(top / inner[0]) if sum(map(bool, map(split_word, folders_in(top / inner[0])))) > 1 else {}
        return {split: f"{inner[0]}/{name}" for split, name in below.items()} or {"": ""}
    given: dict[str, str] = {}
    for name in inner:
        split = split_word(name)
        if split and given.setdefault(split, name) != name:
            raise InputError(f"{top} has two folders of the {split} split, {given[split]!r} and {name!r}: merge them")
    others = [name for name in inner if not split_word(name) and search(top / name, LeftOut())]
    if len(given) > 1 or (given and not others and all(folders_in(top / name) for name in given.values())):
        return {"": given["train"]} if given.keys() == {"train"} else given
    return {"": ""}


def _list_classes(card: Card, top: Path, folder: str, left_out: LeftOut) -> dict[str, list[str]]:
    """Return name of a class folder -> sorted paths of its images, relative to the root, with forward slashes."""
    place = top / folder
    names = list_folder(place)
    classes = [name for name in names if os.path.isdir(place / name) and not hidden(name)]
    loose = chosen(place, [name for name in names if os.path.isfile(place / name)], LeftOut())
    if not classes:
        table = next((name for name in names if name.lower().endswith((".csv", ".tsv"))), None)
        hint = f", and the table {table}, which DATASET.NAME list reads" if table else ""
        raise missing(card, f"{place} holds {'images but ' if loose else ''}no folders of classes{hint}")
    for name in loose:
        left_out.add(place / name, "image", why=" beside the class folders")
    for name in names:
        if hidden(name) and os.path.isdir(place / name):
            left_out.add(place / name, "hidden folder")
    listing: dict[str, list[str]] = {}
    for name in classes:
        own = [path.relative_to(top).as_posix() for path in search(place / name, left_out)]
        listing[composed(name)] = sorted([*listing.get(composed(name), []), *own])
    return listing
