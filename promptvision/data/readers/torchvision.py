"""Images that come as arrays: scikit-learn's digits, and the data sets in torchvision's layouts."""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from promptvision.data.card import Card
from promptvision.data.images import Images, Item
from promptvision.data.readers.layout import data_root, find_folder, missing
from promptvision.data.readers.torchvision_files import read_stl10, read_svhn
from promptvision.data.splits import read_and_split, split_trainval
from promptvision.errors import InputError, unknown

SEED = 1
"""Of the splits made here: fixed, so that every run sees the same validation images."""

Arrays = tuple[np.ndarray, np.ndarray]
"""uint8 images (n, H, W) or (n, H, W, 3), and labels (n,)."""


@dataclass(frozen=True)
class InMemory:
    """Images as arrays by part; `open("train/00017")` gives the 18th of "train" as RGB."""

    parts: dict[str, np.ndarray]

    def open(self, path: str) -> Image.Image:
        part, number = path.split("/")
        return Image.fromarray(self.parts[part][int(number)]).convert("RGB")


def _items(part: str, labels: np.ndarray, names: Sequence[str]) -> list[Item]:
    return [(f"{part}/{number:05d}", int(label), names[label]) for number, label in enumerate(labels)]


def read_digits(card: Card, root: str, *, names: list[str]) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey 0..16 stretched to 0..255; needs no root.

    50/20/30 of every class by `read_and_split`, fixed seed: they come without an official split.
    """
    from sklearn.datasets import load_digits  # takes a second to import, which no other data set should pay

    pixels, labels = load_digits(return_X_y=True)
    store = InMemory({"digits": np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)})
    listing = {f"{digit}": [f"digits/{n:05d}" for n in np.flatnonzero(labels == digit)] for digit in range(10)}
    renames = {f"{digit}": name for digit, name in enumerate(names)}
    train, val, test = read_and_split(listing, SEED, renames=renames)
    return Images(train, val, test, store.open)


def read_torchvision(
    card: Card, root: str, *, dataset: str, folders: list[str], names: list[str], system_folder: str = ""
) -> Images:
    """A data set in the layout that torchvision's download leaves; nothing is downloaded here.

    The files are in the first of `folders` that is there under the root, or, without a root, in `system_folder`.
    Validation images are 10 % of the official training images of every class (`split_trainval`, seed 1).
    """
    if dataset not in TORCHVISION:
        raise InputError(f"card {card.name!r}: {unknown('torchvision data set', dataset, TORCHVISION)}")
    if root or not system_folder:
        folder = find_folder(card, data_root(card, root), folders)
    elif os.path.isdir(system_folder):
        folder = Path(system_folder)
    else:
        raise missing(card, f"DATASET.ROOT is not set and {system_folder} does not exist")
    (train, train_labels), (test, test_labels) = TORCHVISION[dataset](card, folder, dataset)
    if set(train_labels) != set(range(len(names))) or not set(test_labels) <= set(train_labels):
        wrong = f"the training labels in {folder} are not 0 to {len(names) - 1}, or test labels are out of range"
        raise InputError(f"data set {card.name!r}: {wrong}")
    fit, val = split_trainval(_items("train", train_labels, names), SEED, p_val=0.1)
    store = InMemory({"train": train, "test": test})
    return Images(fit, val, _items("test", test_labels, names), store.open)


def _read_idx(card: Card, folder: Path, dataset: str) -> tuple[Arrays, Arrays]:
    """MNIST's four files, plain or gzipped (as in Debian's dataset-fashion-mnist), read by torchvision."""

    def load(part: str) -> Arrays:
        images = _unpacked(card, folder, f"{part}-images-idx3-ubyte", read_image_file)
        labels = _unpacked(card, folder, f"{part}-labels-idx1-ubyte", read_label_file)
        if len(images) != len(labels):
            counts = f"{folder} has {len(images)} {part} images but {len(labels)} labels"
            raise InputError(f"data set {card.name!r}: {counts}")
        return images, labels

    return load("train"), load("t10k")


def _unpacked(card: Card, folder: Path, name: str, load: Callable) -> np.ndarray:
    found = [file for file in (folder / name, folder / f"{name}.gz") if os.path.isfile(file)]
    if not found:
        raise missing(card, f"the file {folder / name} is missing, plain or with .gz")
    file = found[0]
    try:
        if file.suffix != ".gz":
            return load(str(file)).numpy()
        with TemporaryDirectory() as scratch, gzip.open(file) as packed:
            plain = Path(scratch, name)
            with plain.open("wb") as out:
                shutil.copyfileobj(packed, out)
            return load(str(plain)).numpy()
    except (AssertionError, EOFError, KeyError, ValueError, RuntimeError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or "it is not an idx file, broken or cut short"
        raise InputError(f"data set {card.name!r}: {file} cannot be read: {reason}") from None


def _read_cifar(card: Card, folder: Path, dataset: str) -> tuple[Arrays, Arrays]:
    """CIFAR's pickles, which torchvision unpickles only if their checksums are the official ones."""
    kind = getattr(datasets, dataset)
    try:
        parts = [kind(str(folder.parent), train=train) for train in (True, False)]
    except (RuntimeError, OSError):
        raise missing(card, f"{folder} lacks files, or they differ from the official ones") from None
    train, test = ((part.data, np.asarray(part.targets)) for part in parts)
    return train, test


TORCHVISION = {
    "MNIST": _read_idx,
    "FashionMNIST": _read_idx,
    "CIFAR10": _read_cifar,
    "CIFAR100": _read_cifar,
    "SVHN": read_svhn,
    "STL10": read_stl10,
}
"""Data set of torchvision -> how its files are read."""
