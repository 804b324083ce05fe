"""The official lists and class folders that CoOp's split files were made from, for making another split on purpose.

Each function gives train, validation and test parts by the rule of CoOp's `datasets/*.py`: where there is an official
test set, 20 % of the other images validate (`split_trainval`); else 50/20/30 (`read_and_split`).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.images import Item
from promptvision.data.readers.class_names import class_name
from promptvision.data.readers.folder import images_under
from promptvision.data.readers.layout import missing, names_in
from promptvision.data.splits import read_and_split, split_trainval
from promptvision.errors import InputError

Parts = tuple[list[Item], list[Item], list[Item]]


def class_folders(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """A folder per class: Caltech101, DTD, EuroSAT, Food101 and whatever is laid out so."""
    folders = [name for name in names_in(images) if os.path.isdir(images / name)]
    listing = {name: [path.relative_to(images).as_posix() for path in images_under(images / name)] for name in folders}
    if not any(listing.values()):
        raise missing(card, f"{images} holds no folders of classes to make a split from")
    named = {name: class_name(card, name) for name in folders}
    left_out = [name for name in folders if named[name] is None or not listing[name]]
    return read_and_split(listing, seed, ignored=left_out, renames={k: v for k, v in named.items() if v})


def oxford_pets(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """`annotations/trainval.txt` and `test.txt`: `Abyssinian_100 1 1 1`, the second word is the label from 1."""

    def items(name: str) -> list[Item]:
        rows = [line.split() for line in _lines(card, top / "annotations" / name)]
        return [(f"{row[0]}.jpg", int(row[1]) - 1, class_name(card, row[0]) or "") for row in rows]

    return *split_trainval(items("trainval.txt"), seed), items("test.txt")


def oxford_flowers(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """`imagelabels.mat`, labels from 1 in the order of the images, and `cat_to_name.json`."""
    labels = _matlab(card, top / "imagelabels.mat")["labels"].ravel().tolist()
    names = json.loads("\n".join(_lines(card, top / "cat_to_name.json")))
    listing = defaultdict(list)
    for number, label in enumerate(labels, 1):
        listing[f"{label:03d}"].append(f"image_{number:05d}.jpg")
    return read_and_split(listing, seed, renames={folder: names[str(int(folder))] for folder in listing})


def stanford_cars(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """The development kit's `.mat` files; labels from 1."""
    names = [str(cell.item()) for cell in _matlab(card, top / "devkit/cars_meta.mat")["class_names"].ravel()]

    def items(folder: str, file: str) -> list[Item]:
        rows = _matlab(card, top / file)["annotations"].ravel()
        labelled = [(f"{folder}/{row['fname'].item()}", int(row["class"].item()) - 1) for row in rows]
        return [(path, label, class_name(card, names[label]) or "") for path, label in labelled]

    trainval = items("cars_train", "devkit/cars_train_annos.mat")
    return *split_trainval(trainval, seed), items("cars_test", "cars_test_annos_withlabels.mat")


def sun397(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """`ClassName.txt`, a class per line in label order, and `Training_01.txt` and `Testing_01.txt`, a path per line."""
    labels = {raw: label for label, raw in enumerate(_lines(card, top / "ClassName.txt"))}

    def items(name: str) -> list[Item]:
        paths = _lines(card, top / name)
        raws = [path.rpartition("/")[0] for path in paths]
        return [(p.lstrip("/"), labels[raw], class_name(card, raw) or "") for p, raw in zip(paths, raws, strict=True)]

    return *split_trainval(items("Training_01.txt"), seed), items("Testing_01.txt")


def ucf101(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """`ucfTrainTestlist`: `classInd.txt` (`1 ApplyEyeMakeup`), `trainlist01.txt`, `testlist01.txt`; frames as jpg."""
    rows = [line.split(" ") for line in _lines(card, top / "ucfTrainTestlist/classInd.txt")]
    labels = {raw: int(number) - 1 for number, raw in rows}

    def items(name: str) -> list[Item]:
        found = []
        for line in _lines(card, top / "ucfTrainTestlist" / name):
            raw, _, video = line.split(" ")[0].partition("/")
            named = class_name(card, raw) or ""
            found.append((f"{named}/{video.removesuffix('.avi')}.jpg", labels[raw], named))
        return found

    return *split_trainval(items("trainlist01.txt"), seed), items("testlist01.txt")


RAW: dict[str, Callable[[Card, Path, Path, int], Parts]] = {
    "oxford_pets": oxford_pets,
    "oxford_flowers": oxford_flowers,
    "stanford_cars": stanford_cars,
    "sun397": sun397,
    "ucf101": ucf101,
}
"""Cards whose images do not lie in class folders, or that have an official test set."""


def raw_parts(card: Card, top: Path, images: Path, seed: int) -> Parts:
    """Parts from what the data set's own files say. InputError names a file that is missing or of another form."""
    try:
        return RAW.get(card.name, class_folders)(card, top, images, seed)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the lists of data set {card.name!r} under {top} are not of the official form") from None


def _lines(card: Card, file: Path) -> list[str]:
    """The lines that are not blank, without the spaces around them."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        raise missing(card, f"{file} is missing, which a split is made from") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _matlab(card: Card, file: Path) -> dict:  # type: ignore[type-arg]
    from scipy.io import loadmat

    if not file.is_file():
        raise missing(card, f"{file} is missing, which a split is made from")
    return loadmat(file)
