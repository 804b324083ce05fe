"""ImageNet and its variants: a folder per synset (`n01440764`) or per number, and CoOp's `classnames.txt`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import images_in, read_lines
from promptvision.data.readers.class_names import tell_apart
from promptvision.data.readers.layout import data_root, find_folder, missing, names_in
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)


def read_synsets(
    card: Card,
    root: str,
    *,
    folders: list[str],
    test: list[str],
    train: list[str] | None = None,
    classnames: str = "",
    numbered: bool = False,
    twins: dict[str, str] | None = None,
) -> Images:
    """`<root>/<one of folders>/<one of train, of test>/<synset>/*`, files of a folder in sorted order.

    Labels follow the sorted synsets that have a folder, names the lines `n01440764 tench` of `classnames`, a file in
    that folder, or without one those that open_clip ships. `numbered`: folders are places in that list (ImageNet-V2).
    `twins`: synset -> name where the list gives two synsets the same one. Files beside the folders are ignored.
    There are no validation images: CoOp's code validates on the test images. Source: CoOp `imagenet*.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    names = distinct(_listed_names(card, folder / classnames) if classnames else clip_classnames(), twins or {})
    parts = {"train": train or [], "test": test}
    places = {part: find_folder(card, folder, choices) for part, choices in parts.items() if choices}
    lists: dict[str, list[Item]] = {
        part: _items(card, folder, place, _classes(card, place, names, numbered)) for part, place in places.items()
    }
    return Images(lists.get("train", []), [], lists["test"], partial(open_image, str(folder)), str(folder))


def clip_classnames() -> dict[str, str]:
    """Synset -> class name of ImageNet-1k as open_clip ships them, in label order; two names stand twice."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # seconds to import, for lists that bring no names
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


def distinct(names: Mapping[str, str], twins: Mapping[str, str]) -> dict[str, str]:
    """Names told apart: where two synsets share one, by `twins`, and failing that by a number, "crane (2)"."""
    given = list(names.values())
    own = {key: twins.get(key, name) if given.count(name) > 1 else name for key, name in names.items()}
    told = dict(zip(own, tell_apart(list(own.values())), strict=True))
    for key, name in told.items():
        if name != names[key]:
            LOG.info("class %s is called %r here: the list calls two classes %r", key, name, names[key])
    return told


def _listed_names(card: Card, file: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for line in read_lines(card, file, "list of class names"):
        synset, _, name = line.partition(" ")
        if not name or synset in names:
            wrong = "stands twice" if name else "has no name behind it"
            raise InputError(f"list of class names {file}: {synset!r} {wrong}")
        names[synset] = name
    return names


def _classes(card: Card, place: Path, names: Mapping[str, str], numbered: bool) -> list[tuple[str, str]]:
    """(folder, class name) of each label."""
    found = [name for name in names_in(place) if os.path.isdir(place / name)]
    synsets = list(names)
    order = [f"{number}" for number in range(len(synsets))] if numbered else synsets
    strange = sorted(set(found) - set(order))
    if strange:
        raise InputError(f"data set {card.name!r}: {place / strange[0]} is none of the {len(order)} listed classes")
    if card.classes is not None and len(found) != card.classes:
        absent = f", such as {min(set(order) - set(found))}" if card.classes == len(order) else ""
        raise missing(card, f"{place} has {len(found)} of {card.classes} class folders: some are missing{absent}")
    known = dict(zip(order, names.values(), strict=True))
    return [(name, known[name]) for name in (order if numbered else sorted(found)) if name in found]


def _items(card: Card, folder: Path, place: Path, classes: Sequence[tuple[str, str]]) -> list[Item]:
    inner = place.relative_to(folder).as_posix()
    return [
        (f"{inner}/{name}/{file}", label, words)
        for label, (name, words) in enumerate(classes)
        for file in images_in(card, place / name)
    ]
