"""Pictures as files: finding the data root and its folders, and opening a picture."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from promptvision.errors import InputError

if TYPE_CHECKING:
    from promptvision.data.cards import Card

BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What PIL raises for a file that is not a whole picture."""


def open_picture(root: str, path: str) -> Image.Image:
    """The picture `root/path` as RGB, as CoOp's code reads it (Dassl `read_image`): `convert("RGB")`, no more.

    So alpha is dropped, not composited, and an EXIF orientation is not applied. InputError names a broken file.
    """
    file = os.path.join(root, path)
    try:
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except BROKEN as error:
        told = str(error) if isinstance(error, Image.DecompressionBombError) else getattr(error, "strerror", None)
        reason = told or "it is no picture, broken or cut short"
        raise InputError(f"picture {file} cannot be read: {reason}") from None


def missing(card: Card, what: str) -> InputError:
    """The error for something that a data set lacks: says what, and how to get it."""
    return InputError(f"data set {card.name!r}: {what}; {card.where}")


def data_root(card: Card, root: str, otherwise: str = "data") -> Path:
    """The data root, or without one the folder `otherwise`, as an existing folder that is not empty."""
    if not root and not (otherwise and os.path.isdir(otherwise)):
        also = f" and there is no folder {otherwise!r} here" if otherwise else ""
        raise missing(card, f"DATASET.ROOT is not set{also}")
    root = root or otherwise
    folder = Path(root).expanduser()
    if not os.path.isdir(folder):
        state = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise missing(card, f"the data root {folder} {state}")
    if not names_in(folder):
        raise missing(card, f"the data root {folder} is empty")
    return folder


def names_in(folder: Path) -> list[str]:
    """Sorted names in a folder, hidden ones left out."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read: {error.strerror}") from None


def find_folder(card: Card, root: Path, folders: Sequence[str]) -> Path:
    """The first of a card's `folders` that is there under the root."""
    for folder in folders:
        if os.path.isdir(root / folder):
            return root / folder
    raise missing(card, f"the data root {root} has no folder {' or '.join(folders)}")
