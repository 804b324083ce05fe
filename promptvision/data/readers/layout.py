"""Data root, dataset folders, and the sentence for what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from promptvision.data.card import Card
from promptvision.errors import InputError


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


def find_file(card: Card, file: Path, kind: str = "file") -> Path:
    """Return a file that the dataset needs. InputError if it does not exist."""
    if not os.path.isfile(file):
        raise missing(card, f"the {kind} {file} is missing")
    return file


def unreadable(file: Path, error: Exception, reason: str) -> InputError:
    """Return the error for a file that cannot be read, with the reason of the system, or else this one."""
    return InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or reason}")


def find_folder(card: Card, root: Path, folders: Sequence[str]) -> Path:
    """The first of a card's `folders` that is there under the root."""
    for folder in folders:
        if os.path.isdir(root / folder):
            return root / folder
    raise missing(card, f"the data root {root} has no folder {' or '.join(folders)}")
