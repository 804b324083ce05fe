"""VPT's lists of the FGVC five: `train.json`, `val.json` and `test.json`, each `{"path": class id, ...}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from promptvision.atomic import read_json, refuse_damaged
from promptvision.data.card import Card
from promptvision.data.images import Images
from promptvision.data.readers.checks import Faults, Pairs, listed_images
from promptvision.data.readers.class_names import tell_apart
from promptvision.data.readers.layout import data_root, find_file, find_folder, read_lines
from promptvision.data.readers.paths import listed_path
from promptvision.errors import InputError, counted

SPLITS = ("train", "val", "test")
LONGEST = 256
"""Characters of a path that are searched for the name of its class."""


def read_json_lists(
    card: Card,
    root: str,
    faults: Faults,
    *,
    folders: list[str],
    images: str = "",
    drop: str = "",
    names: list[str] | None = None,
    name_pattern: str = "",
    names_file: str = "",
) -> Images:
    """Read `<root>/<one of folders>/{train,val,test}.json`, with paths below `images`, in the order of the files.

    Labels number the sorted class ids of all three files; the official code sorts the ids of each file on its own,
    which agrees only if every file has every class. A path that does not exist is tried without its first folder
    `drop`. Class names are the card's `names`, or what the first group of `name_pattern` finds in the paths of a
    class, looked up in the lines `key name` of `names_file` if the dataset has that file, or "class <id>".
    Source: KMnP/vpt `src/data/datasets/json_dataset.py`.
    """
    folder = find_folder(card, data_root(card, root), folders)
    top = find_folder(card, folder, [images]) if images else folder
    files = {split: folder / f"{split}.json" for split in SPLITS}
    listed: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for split, file in files.items():
        with faults:
            listed[split] = _read_list(card, file, top, drop, faults)
    first = {number: path for entries in reversed(listed.values()) for path, number in reversed(entries)}
    if names and len(names) != len(first):
        raise InputError(
            f"dataset {card.name!r}: {folder} has {counted(len(first), 'class')}, the card names {len(names)}"
        )
    lines = read_lines(card, folder / names_file, "list of class names") if (folder / names_file).is_file() else []
    label = {number: position for position, number in enumerate(sorted(first))}
    own = names or _class_names(card, first, name_pattern, lines)
    lists = {
        split: [(path, label[number], own[label[number]]) for path, number in entries]
        for split, entries in listed.items()
    }
    return listed_images(card, list(files.values()), top, lists, faults)


def _read_list(card: Card, file: Path, top: Path, drop: str, faults: Faults) -> list[tuple[str, int]]:
    """Return (path below `top`, class id) pairs; a path that does not exist loses its first folder `drop`."""
    entries = read_json(find_file(card, file, "list"), Pairs)
    if not isinstance(entries, Pairs):
        raise InputError(f"list {file} must be an object of paths and class ids")
    found: dict[tuple[str, int], None] = {}
    for path, number in entries.pairs:
        with faults:
            if not isinstance(number, int) or isinstance(number, bool):
                raise InputError(f"list {file}, {path!r}: the class id must be an integer, found {number!r}")
            inner = listed_path(path, top, f"list {file}")
            bare = inner.removeprefix(f"{drop}/")
            found[bare if bare != inner and not (top / inner).is_file() else inner, number] = None
    return list(found)


def _class_names(card: Card, first: Mapping[int, str], pattern: str, lines: Iterable[str]) -> list[str]:
    """Return the names of the sorted class ids, from the first path of each and the lines `key name`.

    A pattern that might search a path for ages is refused: one that repeats a group, or has many repetitions.
    """
    if re.search(r"\)[*+?{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 2:
        advice = "repeats a group, or has more than two repetitions: make it simpler"
        raise InputError(f"card {card.name!r}: name_pattern {pattern!r} {advice}")
    with refuse_damaged(f"card {card.name!r}: name_pattern {pattern!r} is no regular expression with a group"):
        found = {number: re.search(pattern, path[:LONGEST]) if pattern else None for number, path in first.items()}
        keys = {number: match[1] for number, match in found.items() if match and match[1]}
    table = {key.lstrip("0"): name for key, _, name in (line.partition(" ") for line in lines)}
    names = []
    for number in sorted(first):
        key = keys.get(number, f"{number}")
        names.append(table.get(key.lstrip("0"), keys.get(number, f"class {number}")))
    return tell_apart(names)
