"""Where the data of a card lie under the root, and what of it is there, without a look into the files."""

from __future__ import annotations

import os
from pathlib import Path

from promptvision.data.card import Card

IN_MEMORY = ("world", "digits")
"""Readers that need no root."""


def root_folder(root: str) -> Path:
    """DATASET.ROOT as the readers take it: empty is `data`."""
    return Path(root or "data").expanduser()


def expected(card: Card, root: str) -> dict[str, bool]:
    """What the card expects under the root -> whether it is there, under any of its folder names."""
    top = root_folder(root)
    folders = [name for name in card.options.get("folders", []) if name != "."]
    if card.files:
        return {file: any((top / name).exists() for name in _spellings(file, folders)) for file in card.files}
    return {folders[0]: any((top / name).is_dir() for name in folders)} if folders else {}


def _spellings(file: str, folders: list[str]) -> list[str]:
    """A path under each of the folders that may stand for the first of them."""
    inner = file.removeprefix(f"{folders[0]}/") if folders else file
    return [f"{folder}/{inner}" for folder in folders] if inner != file else [file]


def presence(card: Card, root: str) -> str:
    """ "built in", "here", "in part", "no", or "own images" where the root itself is the data set."""
    if card.reader in IN_MEMORY:
        return "built in"
    if not root and os.path.isdir(card.options.get("system_folder", "")):
        return "here"
    found = list(expected(card, root).values())
    if not found:
        return "own images"
    return "here" if all(found) else "in part" if any(found) else "no"
