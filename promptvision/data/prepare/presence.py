"""Locate a dataset under the data root and report which of its files exist."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.readers.paths import escapes
from promptvision.errors import InputError

IN_MEMORY = ("world", "digits")
"""Readers that need no root."""


def root_folder(root: str) -> Path:
    """Return DATASET.ROOT as the readers take it: empty is `data`."""
    return Path(root or "data").expanduser()


def below_root(card: Card, root: Path, *names: object) -> Path:
    """Return the path that a card names to write to. InputError if it is outside the root."""
    for name in map(str, names):
        if escapes(name):
            raise InputError(f"dataset {card.name!r}: its card would write {name}, outside the root")
    return root.joinpath(*map(str, names))


def expected(card: Card, root: str) -> dict[str, bool]:
    """Return each file, or else the folder, that the card expects -> whether it exists in any of the card's folders."""
    top = root_folder(root)
    folders = [name for name in card.options.get("folders", []) if name != "."]
    if not card.files:
        return {folders[0]: any((top / name).is_dir() for name in folders)} if folders else {}
    found = {}
    for file in card.files:
        inner = file.removeprefix(f"{folders[0]}/") if folders else file
        spellings = [f"{folder}/{inner}" for folder in folders] if inner != file else [file]
        found[file] = any((top / name).exists() for name in spellings)
    return found


def presence(card: Card, root: str) -> str:
    """Return "built in", "here", "in part", "no", or "own images" if the root itself is the dataset."""
    if card.reader in IN_MEMORY:
        return "built in"
    if not root and os.path.isdir(card.options.get("system_folder", "")):
        return "here"
    found = list(expected(card, root).values())
    if not found:
        return "own images"
    return "here" if all(found) else "in part" if any(found) else "no"


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise InputError if the disk of a folder, which may not exist yet, has less than `size` bytes free."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise InputError(
            f"{what} needs {size:,} bytes, but {place} has {free:,} free: make room, or take another --root"
        )
