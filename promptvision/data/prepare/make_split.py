"""A split of one's own in CoOp's format, where the published file cannot be had: only when asked for."""

from __future__ import annotations

import json
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.prepare.official_lists import raw_parts
from promptvision.data.readers.coop_split import SPLITS
from promptvision.data.readers.layout import data_root, find_folder
from promptvision.errors import InputError


def make_split(card: Card, root: str, seed: int) -> tuple[Path, dict[str, int]]:
    """Write the split file that the card's reader looks for; where it lies, and the images of each part.

    Its key `note` says that it is not the published one; `train_hash` in result.json tells runs on it apart.
    InputError if the card has no split file, if it is there already, or if what it is made from is missing.
    """
    if card.reader != "coop_split":
        raise InputError(f"data set {card.name!r} has no split file to make: its reader is {card.reader}")
    top = find_folder(card, data_root(card, root), card.options["folders"])
    file = top / card.options["split"]
    if file.exists():
        raise InputError(f"{file} is there already and is not overwritten; move it away to make another one")
    images = find_folder(card, top, [card.options["images"]])
    parts = dict(zip(SPLITS, raw_parts(card, top, images, seed), strict=True))
    note = f"not the published split: made by tools/data.py split, seed {seed}"
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(json.dumps({"note": note, "seed": seed, **parts}))
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
    return file, {part: len(items) for part, items in parts.items()}


def split_note(card: Card, root: str, domain: str = "") -> list[str]:
    """What a split file says about itself: that it is one of those made here; nothing of a published one."""
    options = {**card.options, **card.domains.get(domain, {})}
    if card.reader != "coop_split":
        return []
    try:
        file = find_folder(card, data_root(card, root), options["folders"]) / options["split"]
        note = json.loads(file.read_text(encoding="utf-8")).get("note")
    except (OSError, ValueError, AttributeError):
        return []
    return [f"{file} is {note}"] if isinstance(note, str) else []
