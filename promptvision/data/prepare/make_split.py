"""A new split in CoOp's format, made only on request, for a dataset whose published split file cannot be obtained."""

from __future__ import annotations

import json
from pathlib import Path

from promptvision.atomic import read_json, write_atomically
from promptvision.data.card import Card
from promptvision.data.prepare.official_lists import official_split
from promptvision.data.prepare.presence import below_root
from promptvision.data.readers.coop_split import SPLITS
from promptvision.data.readers.layout import data_root, find_folder
from promptvision.errors import InputError, as_called


def make_split(card: Card, root: str, seed: int) -> tuple[Path, dict[str, int]]:
    """Write the split file that the card's reader expects; return the file and the number of images in each split.

    Its key `note` says that it is not the published one; `train_hash` in result.json distinguishes runs on it.
    InputError if the card has no split file, if the file exists already, or if the official lists are missing.
    """
    if card.reader != "coop_split":
        raise InputError(f"dataset {card.name!r} has no split file to make: its reader is {card.reader}")
    below_root(card, Path(root), *card.options["folders"])
    top = find_folder(card, data_root(card, root), card.options["folders"])
    file = below_root(card, top, card.options["split"])
    if file.exists():
        raise InputError(f"{file} exists already and is not overwritten; move it away to make another one")
    images = find_folder(card, top, [card.options["images"]])
    lists = dict(zip(SPLITS, official_split(card, top, images, seed), strict=True))
    note = as_called(f"not the published split: made by tools/data.py split, seed {seed}")
    write_atomically(file, json.dumps({"note": note, "seed": seed, **lists}).encode())
    return file, {split: len(items) for split, items in lists.items()}


def split_note(card: Card, root: str, domain: str = "") -> list[str]:
    """Return the note of a split file that was made here; [] for a published one."""
    options = {**card.options, **card.domains.get(domain, {})}
    if card.reader != "coop_split":
        return []
    try:
        file = find_folder(card, data_root(card, root), options["folders"]) / options["split"]
        note = read_json(file).get("note")
    except (InputError, AttributeError):
        return []
    return [f"{file} is {note}"] if isinstance(note, str) else []
