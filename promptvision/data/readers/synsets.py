"""ImageNet and its variants: a folder per synset (`n01440764`) or per number, and CoOp's `classnames.txt`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.images import Images
from promptvision.data.readers.checks import Faults, class_items, image_files
from promptvision.data.readers.class_names import tell_apart
from promptvision.data.readers.layout import data_root, find_folder, folders_in, missing, read_lines
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)


def read_synsets(
    card: Card,
    root: str,
    faults: Faults,
    *,
    folders: list[str],
    test: list[str],
    train: list[str] | None = None,
    classnames: str = "",
    numbered: bool = False,
    twins: dict[str, str] | None = None,
) -> Images:
    """Read `<root>/<one of folders>/<one of train, of test>/<synset>/*`, with the files of a folder in sorted order.

    Labels follow the sorted synsets that have a folder. Their names are the lines `n01440764 tench` of `classnames`,
    a file in that folder, or those that open_clip ships. `numbered`: folders are positions in that list (ImageNet-V2).
    `twins`: synset -> name where the list gives two synsets the same one. Files beside the folders are ignored.
    There are no validation images: CoOp's code validates on the test images. Source: CoOp `imagenet*.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    listed = _listed_names(card, folder / classnames) if classnames else clip_classnames()
    names = distinct(listed, twins or {})
    ordered = {f"{n}": name for n, name in enumerate(names.values())} if numbered else dict(sorted(names.items()))
    lists = {}
    for split, choices in {"train": train or [], "test": test}.items():
        if choices:
            place = find_folder(card, folder, choices)
            lists[split] = class_items(card, folder, place, _classes(card, place, ordered), faults)
    return image_files(folder, lists)


def clip_classnames() -> dict[str, str]:
    """Return synset -> class name of ImageNet-1k as open_clip ships them, in label order; two names occur twice."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # seconds to import, for datasets without names
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


def distinct(names: Mapping[str, str], twins: Mapping[str, str]) -> dict[str, str]:
    """Return the names made distinct: where two synsets share one, by `twins`, or else by a number, "crane (2)"."""
    given = list(names.values())
    own = {key: twins.get(key, name) if given.count(name) > 1 else name for key, name in names.items()}
    apart = dict(zip(own, tell_apart(list(own.values())), strict=True))
    for key, name in apart.items():
        if name != names[key]:
            LOG.info("class %s is called %r here: the list calls two classes %r", key, name, names[key])
    return apart


def _listed_names(card: Card, file: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for line in read_lines(card, file, "list of class names"):
        synset, _, name = line.partition(" ")
        if not name or synset in names:
            wrong = "occurs twice" if name else "has no name after it"
            raise InputError(f"list of class names {file}: {synset!r} {wrong}")
        names[synset] = name
    return names


def _classes(card: Card, place: Path, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (folder, class name) of the classes that have a folder. InputError if the card expects others."""
    found = set(folders_in(place))
    strange = sorted(found - set(names))
    if strange:
        raise InputError(f"dataset {card.name!r}: {place / strange[0]} is none of the {len(names)} listed classes")
    if card.classes is not None and len(found) != card.classes:
        absent = f", such as {min(set(names) - found)}" if card.classes == len(names) else ""
        raise missing(card, f"{place} has {len(found)} of {card.classes} class folders: some are missing{absent}")
    return [(name, words) for name, words in names.items() if name in found]
