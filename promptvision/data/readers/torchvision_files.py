"""SVHN and STL10 in the layout that torchvision's downloads leave."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from promptvision.data.card import Card
from promptvision.data.readers.layout import missing
from promptvision.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray]
"""uint8 images (n, H, W, 3), and labels (n,)."""


def read_svhn(card: Card, folder: Path, dataset: str) -> tuple[Arrays, Arrays]:
    """`{train,test}_32x32.mat`: X (32, 32, 3, n) and y (n, 1), where 10 stands for the digit 0; `extra` is not read."""
    from scipy.io import loadmat  # a second to import
    from scipy.io.matlab import MatReadError

    def load(part: str) -> Arrays:
        file = _there(card, folder / f"{part}_32x32.mat")
        try:
            content = loadmat(file)
            images, labels = content["X"], content["y"].ravel().astype(np.int64) % 10
        except (MatReadError, ValueError, TypeError, KeyError, IndexError, OSError, NotImplementedError, zlib.error):
            raise _broken(card, file, "it is not the .mat file of SVHN, broken or cut short") from None
        return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels

    return load("train"), load("test")


def read_stl10(card: Card, folder: Path, dataset: str) -> tuple[Arrays, Arrays]:
    """`{train,test}_{X,y}.bin`: images (n, 3, 96, 96), columns first, labels from 1; `unlabeled` is not read."""

    def load(part: str) -> Arrays:
        files = [_there(card, folder / f"{part}_{kind}.bin") for kind in "Xy"]
        pixels, labels = (np.fromfile(file, dtype=np.uint8) for file in files)
        if len(pixels) != len(labels) * 3 * 96 * 96:
            raise _broken(card, files[0], f"it does not hold {len(labels)} images of 96x96 pixels")
        return np.ascontiguousarray(pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)), labels.astype(np.int64) - 1

    return load("train"), load("test")


def _there(card: Card, file: Path) -> Path:
    if not os.path.isfile(file):
        raise missing(card, f"the file {file} is missing")
    return file


def _broken(card: Card, file: Path, reason: str) -> InputError:
    return InputError(f"data set {card.name!r}: {file} cannot be read: {reason}")
