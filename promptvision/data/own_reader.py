"""Which reader reads your own images, by what a path holds."""

from __future__ import annotations

import os
from pathlib import Path

from promptvision.data.decode import SUFFIXES
from promptvision.data.readers.hub_folder import SUFFIXES as TABLES
from promptvision.data.readers.layout import folders_in, names_in
from promptvision.data.readers.list_rows import READ as LISTS
from promptvision.data.readers.search import LeftOut, walk
from promptvision.data.readers.shards import PACKED
from promptvision.errors import InputError


def own_reader(place: str) -> str:
    """Return the name of the card that reads a list file, or a folder of tables, shards, class folders or lists."""
    top = Path(place).expanduser()
    if os.path.isfile(top):
        if top.suffix.lower() in LISTS:
            return "list"
        raise InputError(f"{place} is {_kind(top.name.lower())}, or a list ({', '.join(LISTS)})")
    if not os.path.isdir(top):
        raise InputError(f"{place} does not exist: name a folder of images, a list, tar shards or a dataset on disk")
    for suffixes, card in ((TABLES, "hub_folder"), ((".tar", *PACKED), "shards")):
        if next(walk(top, LeftOut(), suffixes), None):
            return card
    lists = [name for name in names_in(top) if Path(name).suffix.lower() in LISTS and not name.lower().endswith(".txt")]
    folders = [name for name in folders_in(top) if next(walk(top / name, LeftOut()), None)]
    return "list" if lists and len(folders) < 2 else "folder"


def _kind(name: str) -> str:
    """Return what a file is that holds no list, and what to name in its place."""
    if name.endswith((".tar", *PACKED)):
        return "a single archive: name the folder of the shards, or the folder of images after unpacking it"
    if name.endswith((".zip", ".rar", ".7z")):
        return "an archive: unpack it and name the folder of images"
    if name.endswith(SUFFIXES):
        return "a single image: name a folder with one folder of images per class"
    return "no list of images: name a folder of images"
