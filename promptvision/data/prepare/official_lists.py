"""The official lists and class folders from which CoOp's split files were made, to make another split on request.

Each function returns train, val and test items by the rule of CoOp's `datasets/*.py`: if there is an official test
set, 20 % of the other images validate (`split_trainval`); else 50/20/30 (`read_and_split`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from promptvision.atomic import read_json, refuse_damaged
from promptvision.data.card import Card
from promptvision.data.images import Item
from promptvision.data.readers.class_names import class_name
from promptvision.data.readers.layout import find_file, folders_in, missing, read_lines, read_matlab
from promptvision.data.readers.search import LeftOut, search
from promptvision.data.splits import read_and_split, split_trainval

Lists = tuple[list[Item], list[Item], list[Item]]
KIND = "official list"


def class_folders(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Split a folder per class: Caltech101, DTD, EuroSAT, Food101 and your own of this layout."""
    folders = folders_in(images)
    found = {name: search(images / name, LeftOut()) for name in folders}
    listing = {name: [path.relative_to(images).as_posix() for path in own] for name, own in found.items()}
    if not any(listing.values()):
        raise missing(card, f"{images} holds no folders of classes to make a split from")
    named = {name: class_name(card, name) for name in folders}
    left_out = [name for name in folders if named[name] is None or not listing[name]]
    return read_and_split(listing, seed, ignored=left_out, renames={k: v for k, v in named.items() if v})


def oxford_pets(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Read `annotations/trainval.txt` and `test.txt`: `Abyssinian_100 1 1 1`, the second word is the label from 1."""
    lists: list[list[Item]] = []
    for file in ("annotations/trainval.txt", "annotations/test.txt"):
        rows = [line.split() for line in read_lines(card, top / file, KIND)]
        lists.append([(f"{row[0]}.jpg", int(row[1]) - 1, class_name(card, row[0]) or "") for row in rows])
    return *split_trainval(lists[0], seed), lists[1]


def oxford_flowers(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Read `imagelabels.mat`, labels from 1 in the order of the images, and `cat_to_name.json`."""
    labels = read_matlab(card, top / "imagelabels.mat", KIND)["labels"].ravel().tolist()
    names = read_json(find_file(card, top / "cat_to_name.json", KIND))
    listing = defaultdict(list)
    for number, label in enumerate(labels, 1):
        listing[f"{label:03d}"].append(f"image_{number:05d}.jpg")
    return read_and_split(listing, seed, renames={folder: names[str(int(folder))] for folder in listing})


def stanford_cars(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Read the `.mat` files of the development kit; labels from 1."""
    raw = [str(cell.item()) for cell in read_matlab(card, top / "devkit/cars_meta.mat", KIND)["class_names"].ravel()]
    lists: list[list[Item]] = []
    for folder, file in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        rows = read_matlab(card, top / file, KIND)["annotations"].ravel()
        labelled = [(f"{folder}/{row['fname'].item()}", int(row["class"].item()) - 1) for row in rows]
        lists.append([(path, label, class_name(card, raw[label]) or "") for path, label in labelled])
    return *split_trainval(lists[0], seed), lists[1]


def sun397(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Read `ClassName.txt`, classes in label order, and the paths in `Training_01.txt` and `Testing_01.txt`."""
    labels = {raw: label for label, raw in enumerate(read_lines(card, top / "ClassName.txt", KIND))}
    lists: list[list[Item]] = []
    for file in ("Training_01.txt", "Testing_01.txt"):
        paths = [(path, path.rpartition("/")[0]) for path in read_lines(card, top / file, KIND)]
        lists.append([(path.lstrip("/"), labels[raw], class_name(card, raw) or "") for path, raw in paths])
    return *split_trainval(lists[0], seed), lists[1]


def ucf101(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Read `classInd.txt` (`1 ApplyEyeMakeup`), `trainlist01.txt` and `testlist01.txt`; one jpg per video."""
    folder = top / "ucfTrainTestlist"
    rows = [line.split(" ") for line in read_lines(card, folder / "classInd.txt", KIND)]
    labels = {raw: int(number) - 1 for number, raw in rows}
    lists: list[list[Item]] = []
    for file in ("trainlist01.txt", "testlist01.txt"):
        videos = [line.split(" ")[0].partition("/") for line in read_lines(card, folder / file, KIND)]
        named = [(raw, class_name(card, raw) or "", video.removesuffix(".avi")) for raw, _, video in videos]
        lists.append([(f"{name}/{video}.jpg", labels[raw], name) for raw, name, video in named])
    return *split_trainval(lists[0], seed), lists[1]


OFFICIAL: dict[str, Callable[[Card, Path, Path, int], Lists]] = {
    "oxford_pets": oxford_pets,
    "oxford_flowers": oxford_flowers,
    "stanford_cars": stanford_cars,
    "sun397": sun397,
    "ucf101": ucf101,
}
"""Cards whose images are not in class folders, or that have an official test set."""


def official_split(card: Card, top: Path, images: Path, seed: int) -> Lists:
    """Split a dataset by its own lists. InputError names a file that is missing or not of the official form."""
    with refuse_damaged(f"lists of dataset {card.name!r} under {top}", "they are not of the official form"):
        return OFFICIAL.get(card.name, class_folders)(card, top, images, seed)
