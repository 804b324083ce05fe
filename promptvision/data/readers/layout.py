"""Data root, folders and files of a dataset, and the error for what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from promptvision.atomic import read_bytes, refuse_damaged
from promptvision.data.card import Card
from promptvision.errors import InputError, as_called

FOLDERS_OF_SYSTEMS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that archives of a Mac, network drives and other systems leave beside images, with copies of some."""


def missing(card: Card, what: str) -> InputError:
    """Return the error for something that a dataset lacks; it ends with how to get the dataset."""
    return InputError(f"dataset {card.name!r}: {what}; {as_called(card.where)}")


def refuse_folder(error: OSError) -> NoReturn:
    """Raise InputError for a folder that cannot be listed."""
    raise InputError(f"folder {error.filename} cannot be read: {error.strerror}") from None


def data_root(card: Card, root: str, otherwise: str = "data") -> Path:
    """Return DATASET.ROOT, or if it is not set the folder `otherwise`. InputError if it is missing or empty."""
    if not root and not (otherwise and os.path.isdir(otherwise)):
        also = f" and there is no folder {otherwise!r} here" if otherwise else ""
        raise missing(card, f"DATASET.ROOT is not set{also}")
    folder = Path(root or otherwise).expanduser()
    if not os.path.isdir(folder):
        state = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise missing(card, f"the data root {folder} {state}")
    if not names_in(folder):
        raise missing(card, f"the data root {folder} is empty")
    return folder


def find_folder(card: Card, root: Path, folders: Sequence[str]) -> Path:
    """Return the first of a card's `folders` that exists under the root. InputError if none does."""
    for folder in folders:
        if os.path.isdir(root / folder):
            return root / folder
    raise missing(card, f"the data root {root} has no folder {' or '.join(folders)}")


def find_file(card: Card, file: Path, kind: str = "file") -> Path:
    """Return a file that the dataset needs. InputError if it does not exist."""
    if not os.path.isfile(file):
        raise missing(card, f"the {kind} {file} is missing")
    return file


def hidden(name: str) -> bool:
    """Return whether a search leaves out a file or folder: hidden ones, and the FOLDERS_OF_SYSTEMS."""
    return name.startswith(".") or name in FOLDERS_OF_SYSTEMS


def list_folder(folder: Path) -> list[str]:
    """Return the sorted names in a folder. InputError if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        refuse_folder(error)


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder, without hidden ones."""
    return [name for name in list_folder(folder) if not hidden(name)]


def folders_in(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones."""
    return [name for name in names_in(folder) if os.path.isdir(folder / name)]


def read_text(file: Path, kind: str) -> str:
    """Read a text in UTF-8, or in UTF-16 as spreadsheets save it; `kind` is what the error calls the file."""
    data = read_bytes(file, kind)
    with refuse_damaged(f"{kind} {file} is not UTF-8 text", "save it as UTF-8"):
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    if "\0" in text:
        raise InputError(f"{kind} {file} has a NUL character, which no path and no name has")
    return text


def read_lines(card: Card, file: Path, kind: str) -> list[str]:
    """Read the lines of a file that the dataset needs, stripped and without empty ones."""
    text = read_text(find_file(card, file, kind), kind)
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_matlab(card: Card, file: Path, kind: str = "file") -> dict[str, Any]:
    """Return the variables in a MATLAB file that the dataset needs."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with refuse_damaged(f"{find_file(card, file, kind)} cannot be read", "it is no .mat file, broken or cut short"):
        try:
            return loadmat(file)
        except MatReadError as error:
            raise ValueError(str(error)) from error
