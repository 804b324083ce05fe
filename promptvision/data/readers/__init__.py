"""Readers: each turns one layout on disk, or in memory, into the lists of `Images`.

A reader takes the card, the data root and `faults`, the guard around each entry that it parses; its keyword-only
arguments are the keys that only its cards hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.images import Images, join
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.class_folders import read_class_folders
from promptvision.data.readers.coop_split import read_coop_split
from promptvision.data.readers.folder import read_folder
from promptvision.data.readers.hub_folder import read_hub_folder
from promptvision.data.readers.json_lists import read_json_lists
from promptvision.data.readers.list import read_list
from promptvision.data.readers.shards import read_shards
from promptvision.data.readers.synsets import read_synsets
from promptvision.data.readers.text_lists import read_aircraft, read_text_lists
from promptvision.data.readers.torchvision import read_digits, read_torchvision
from promptvision.errors import InputError, unknown


def read_world(card: Card, root: str, faults: Faults, *, task: str) -> Images:
    """Render a task of the embedded world; needs no root."""
    from promptvision.data.world import read_task  # imports torch, which the lists alone do not need

    return read_task(task)


READERS: dict[str, Callable[..., Images]] = {
    "world": read_world,
    "digits": read_digits,
    "torchvision": read_torchvision,
    "folder": read_folder,
    "list": read_list,
    "hub_folder": read_hub_folder,
    "shards": read_shards,
    "coop_split": read_coop_split,
    "synsets": read_synsets,
    "text_lists": read_text_lists,
    "aircraft": read_aircraft,
    "json_lists": read_json_lists,
    "class_folders": read_class_folders,
}


def read(card: Card, root: str | Path = "", domain: str = "", faults: Faults | None = None) -> Images:
    """Return the images of a card's dataset under the data root (DATASET.ROOT); "" where it needs none.

    `domain`: one of the card's domains; "" for all of them together, one after the other. InputError, one sentence
    with the file or folder, for everything that is missing, unreadable or malformed; `faults` may gather them.
    """
    if domain and domain not in card.domains:
        raise unknown(f"domain of dataset {card.name!r}", domain, card.domains)
    parts = []
    for name in [domain] if domain else card.domains or [""]:
        own = {key: value for key, value in card.domains.get(name, {}).items() if key != "counts"}
        parts.append(READERS[card.reader](card, str(root), faults or Faults(), **{**card.options, **own}))
    images = parts[0] if len(parts) == 1 else join(parts)
    if not images.classes:
        raise InputError(f"dataset {card.name!r} has no classes: its lists hold no images")
    for name in images.classes:
        if name.encode("utf-8", "ignore").decode() != name:
            raise InputError(f"dataset {card.name!r}: the class name {ascii(name)} is not text in UTF-8: rename it")
    return images
