"""Class names of your own images: those of folders or lists, or of a file `names.txt`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from promptvision.data.readers.layout import read_text
from promptvision.data.readers.list_rows import Row
from promptvision.data.readers.paths import composed
from promptvision.errors import InputError, counted

LOG = logging.getLogger(__name__)
NAMES = "names.txt"
CLASSES = "classes.txt"


def read_names(folder: Path) -> dict[str, str]:
    """Read `names.txt` in the folder of the data: lines `folder or label<TAB or comma>class name`; {} without it."""
    file = folder / NAMES
    names: dict[str, str] = {}
    lines = read_text(file, "file of class names").splitlines() if os.path.isfile(file) else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        raw, _, name = (part.strip() for part in line.partition("\t" if "\t" in line else ","))
        if not raw or not name:
            raise InputError(f"{file}, line {number}: expected `folder,class name`, found {line!r}")
        if names.setdefault(composed(raw), name) != name:
            raise InputError(f"{file}, line {number}: {raw!r} is {names[composed(raw)]!r} above and {name!r} here")
    return names


def read_classes(folder: Path) -> dict[int, str]:
    """Read `classes.txt` in the folder of the data: number -> class, in the order of the labels; {} without it.

    Lines are counted from 0, or from the number before the name of the first, if it is 0 or 1 and all have one.
    """
    file = folder / CLASSES
    text = read_text(file, "file of classes") if os.path.isfile(file) else ""
    lines = [composed(line.strip()) for line in text.splitlines() if line.strip()]
    pairs, first = [re.split(r"[\s,:]+", line, maxsplit=1) for line in lines], 0
    for start in (0, 1):
        if all(len(pair) == 2 and pair[0] == str(n) for n, pair in enumerate(pairs, start)):
            lines, first = [pair[1] for pair in pairs], start
    twice = next((name for n, name in enumerate(lines) if name in lines[:n]), None)
    if twice is not None:
        raise InputError(f"{file} names the class {twice!r} twice: give each class one line")
    return dict(enumerate(lines, first))


def in_order(
    raw: Sequence[str], classes: Mapping[int, str], names: Mapping[str, str], place: Path
) -> tuple[list[str], Mapping[str, str]]:
    """Return the classes of the data in the order of `classes.txt`, and their names.

    Its lines are the classes themselves, or, if these are numbers that it lacks, the name of each number.
    InputError for a class that it does not name.
    """
    if not classes:
        return list(raw), names
    named = {*map(composed, raw)} & {*classes.values()}
    numbers = not named and all(re.fullmatch(r"\d{1,18}", own) for own in raw)
    known = {str(n) if numbers else name: name for n, name in classes.items()}
    key = {own: str(int(own)) if numbers else composed(own) for own in raw}
    for own in raw:
        if key[own] not in known:
            near = get_close_matches(own, classes.values(), n=1)
            has = f"it has {counted(len(classes), 'line')}{f', counted from {min(classes)}' if numbers else ''}"
            hint = f"did you mean {near[0]!r}?" if near else has
            raise InputError(f"{place / CLASSES} has no line for the class {own!r}; {hint}")
    position = {name: n for n, name in enumerate(known)}
    absent = [name for name in known if name not in key.values()]
    if absent:
        without = counted(len(absent), "class has", "classes have")
        LOG.warning("%s: %s no images, such as %r", place / CLASSES, without, known[absent[0]])
    return sorted(raw, key=lambda own: position[key[own]]), names or {composed(own): known[key[own]] for own in raw}


def whole_numbers(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with labels as integers if all of them are whole numbers, such as the 1.0 that pandas writes."""
    kinds = {row.label for row in rows}
    if not all(re.fullmatch(r"-?\d{1,18}(\.0*)?", label) for label in kinds) or not any(
        "." in label for label in kinds
    ):
        return list(rows)
    return [row._replace(label=str(int(row.label.partition(".")[0]))) for row in rows]


def class_names(raw: Iterable[str], names: Mapping[str, str], place: Path) -> dict[str, str]:
    """Return the class of the data -> its name for prompts, which `names` gives, if there are any.

    Names come in Unicode's composed form, whatever form the file system keeps, so that a tokenizer sees the same text
    everywhere. InputError for a class that `names` lacks, or that is not UTF-8, and for two classes of one name
    (unless they are one class in two forms of Unicode).
    """
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for own in raw:
        if own.encode("utf-8", "ignore").decode() != own:
            raise InputError(f"the class {ascii(own)} in {place} is not named in UTF-8: rename it")
        if names and composed(own) not in names:
            raise InputError(f"{place / NAMES} has no name for the class {own!r}: add a line `{own},its name`")
        name = found[own] = composed(names.get(composed(own), own))
        if composed(owners.setdefault(name, own)) != composed(own):
            raise InputError(f"the classes {owners[name]!r} and {own!r} in {place} have the same name {name!r}")
    alike: dict[str, str] = {}
    for name in owners:
        other = alike.setdefault(name.replace("_", " ").casefold(), name)
        if other != name:
            LOG.warning("the classes %r and %r differ in case only: to most tokenizers they are the same", other, name)
    return found


def label_table(rows: Sequence[Row], place: Path, names: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Return the class of a list -> (label, name): integers in their order, others sorted; labels from 0 on.

    `classes.txt` beside the list `place` may give another order, if rows have no names of their own. Names are the
    rows' own, else those of `names`, else those of `classes.txt`, else the labels.
    """
    own = {row.label for row in rows}
    numbers = all(re.fullmatch("0|-?[1-9][0-9]{,17}", label) for label in own)
    given: dict[str, str] = {}
    for row in rows:
        if row.name and given.setdefault(row.label, row.name) != row.name:
            raise InputError(f"{row.place}: label {row.label} is {given[row.label]!r} above and {row.name!r} here")
    ordered = sorted(own, key=int) if numbers else sorted(own)
    classes = read_classes(place.parent) if all(a == b for a, b in given.items()) else {}
    ordered, names = in_order(ordered, classes, names, place.parent)
    known = class_names(ordered, {composed(label): name for label, name in given.items()} or names, place.parent)
    if numbers and not given and not names:
        LOG.warning("%s has no class names, so prompts will say the numbers: write %s beside it", place, NAMES)
    return {label: (position, known[label]) for position, label in enumerate(ordered)}
