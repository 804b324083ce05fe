"""Datasets that are read as arrays: scikit-learn's digits, and the layouts that torchvision's downloads leave.

torchvision and scikit-learn take a second to import: only the functions that need them do so.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from promptvision.atomic import refuse_damaged
from promptvision.data.card import Card
from promptvision.data.images import Images, Item
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.layout import data_root, find_file, find_folder, missing, read_matlab
from promptvision.data.splits import read_and_split, split_trainval
from promptvision.errors import InputError, counted, unknown

SEED = 1
"""Seed of the splits made here: fixed, so that every run sees the same validation images."""

LARGEST_IDX = 1 << 27
"""Bytes that are unpacked of an idx file; Fashion-MNIST's has a third of it."""

Arrays = tuple[np.ndarray, np.ndarray]
"""uint8 images (n, H, W) or (n, H, W, 3), and labels (n,)."""


@dataclass(frozen=True)
class InMemory:
    """Arrays of images by split; `open("train/00017")` returns the 18th of "train" as RGB."""

    splits: dict[str, np.ndarray]

    def open(self, path: str) -> Image.Image:
        split, number = path.split("/")
        return Image.fromarray(self.splits[split][int(number)]).convert("RGB")


def read_digits(card: Card, root: str, faults: Faults, *, names: list[str]) -> Images:
    """Read scikit-learn's 1,797 handwritten digits: 8x8, grey 0..16 stretched to 0..255. They need no root.

    They have no official split: 50/20/30 of every class by `read_and_split`, with a fixed seed.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    store = InMemory({"digits": np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)})
    listing = {f"{digit}": [f"digits/{n:05d}" for n in np.flatnonzero(labels == digit)] for digit in range(10)}
    renames = {f"{digit}": name for digit, name in enumerate(names)}
    train, val, test = read_and_split(listing, SEED, renames=renames)
    return Images(train, val, test, store.open)


def read_torchvision(
    card: Card,
    root: str,
    faults: Faults,
    *,
    dataset: str,
    folders: list[str],
    names: list[str],
    system_folder: str = "",
) -> Images:
    """Read a dataset in the layout that torchvision's download leaves, without downloading anything.

    The files are in the first of `folders` that exists under the root, or, without a root, in `system_folder`.
    Validation images are 10 % of the official training images of every class (`split_trainval`, seed 1).
    """
    if dataset not in TORCHVISION:
        raise InputError(f"card {card.name!r}: {unknown('torchvision dataset', dataset, TORCHVISION)}")
    if root or not system_folder:
        folder = find_folder(card, data_root(card, root), folders)
    elif os.path.isdir(system_folder):
        folder = Path(system_folder)
    else:
        raise missing(card, f"DATASET.ROOT is not set and {system_folder} does not exist")
    (train, train_labels), (test, test_labels) = (
        TORCHVISION[dataset](card, folder, split) for split in ("train", "test")
    )
    if set(train_labels) != set(range(len(names))) or not set(test_labels) <= set(train_labels):
        wrong = f"the training labels in {folder} are not 0 to {len(names) - 1}, or test labels are out of range"
        raise InputError(f"dataset {card.name!r}: {wrong}")
    fit, val = split_trainval(_items("train", train_labels, names), SEED, p_val=0.1)
    store = InMemory({"train": train, "test": test})
    return Images(fit, val, _items("test", test_labels, names), store.open)


def _items(split: str, labels: np.ndarray, names: Sequence[str]) -> list[Item]:
    return [(f"{split}/{number:05d}", int(label), names[label]) for number, label in enumerate(labels)]


def read_idx(card: Card, folder: Path, split: str) -> Arrays:
    """Read the images and labels of a split of MNIST, plain or gzipped (as in Debian's dataset-fashion-mnist)."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    part = {"train": "train", "test": "t10k"}[split]
    images = _load_idx(card, folder / f"{part}-images-idx3-ubyte", read_image_file)
    labels = _load_idx(card, folder / f"{part}-labels-idx1-ubyte", read_label_file)
    if len(images) != len(labels):
        raise InputError(
            f"dataset {card.name!r}: {folder} has {counted(len(images), f'{part} image')} but "
            f"{counted(len(labels), 'label')}"
        )
    return images, labels


def _load_idx(card: Card, plain: Path, load: Callable) -> np.ndarray:
    """Load an idx file by torchvision's code; a gzipped one is unpacked into a temporary file first."""
    packed = plain.with_name(f"{plain.name}.gz")
    file = packed if packed.is_file() and not plain.is_file() else plain
    if not file.is_file():
        raise missing(card, f"the file {plain} is missing, plain or with .gz")
    with refuse_damaged(f"{file} cannot be read", "it is not an idx file, broken or cut short"):
        if file == plain:
            return load(str(plain)).numpy()
        with TemporaryDirectory() as scratch:
            unpacked = Path(scratch, plain.name)
            with gzip.open(packed) as file_in_gz:
                unpacked.write_bytes(file_in_gz.read(LARGEST_IDX))
            return load(str(unpacked)).numpy()


def read_cifar(card: Card, folder: Path, split: str, *, kind: str) -> Arrays:
    """Read CIFAR's pickles, which torchvision unpickles only if their checksums are the official ones."""
    from torchvision import datasets

    try:
        official = getattr(datasets, kind)(str(folder.parent), train=split == "train")
    except (RuntimeError, OSError):
        raise missing(card, f"{folder} lacks files, or they differ from the official files") from None
    return official.data, np.asarray(official.targets)


def read_svhn(card: Card, folder: Path, split: str) -> Arrays:
    """Read `{train,test}_32x32.mat`: X (32, 32, 3, n) and y (n, 1), 10 for the digit 0; `extra` is not read."""
    file = folder / f"{split}_32x32.mat"
    content = read_matlab(card, file)
    with refuse_damaged(f"{file} cannot be read", "it is not the .mat file of SVHN"):
        images, labels = content["X"], content["y"].ravel().astype(np.int64) % 10
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels


def read_stl10(card: Card, folder: Path, split: str) -> Arrays:
    """Read `{train,test}_{X,y}.bin`: images (n, 3, 96, 96), columns first, labels from 1; `unlabeled` is not read."""
    files = [find_file(card, folder / f"{split}_{kind}.bin") for kind in "Xy"]
    pixels, labels = (np.fromfile(file, dtype=np.uint8) for file in files)
    if len(pixels) != len(labels) * 3 * 96 * 96:
        raise InputError(f"{files[0]} cannot be read: it does not hold {counted(len(labels), 'image')} of 96x96 pixels")
    return np.ascontiguousarray(pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)), labels.astype(np.int64) - 1


TORCHVISION: dict[str, Callable[[Card, Path, str], Arrays]] = {
    "MNIST": read_idx,
    "FashionMNIST": read_idx,
    "CIFAR10": partial(read_cifar, kind="CIFAR10"),
    "CIFAR100": partial(read_cifar, kind="CIFAR100"),
    "SVHN": read_svhn,
    "STL10": read_stl10,
}
"""Dataset of torchvision -> the function that reads one of its splits."""
