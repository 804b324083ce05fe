"""Class names of your own images: those of folders or lists, or of a file `names.txt`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from promptvision.data.readers.layout import read_text
from promptvision.data.readers.list_rows import Row
from promptvision.data.readers.paths import composed
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)
NAMES = "names.txt"


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

    Names are the rows' own, else those of `names`, else the labels. `place`: the list, for errors.
    """
    own = {row.label for row in rows}
    numbers = all(re.fullmatch("0|-?[1-9][0-9]*", label) for label in own)
    given: dict[str, str] = {}
    for row in rows:
        if row.name and given.setdefault(row.label, row.name) != row.name:
            raise InputError(f"{row.place}: label {row.label} is {given[row.label]!r} above and {row.name!r} here")
    ordered = sorted(own, key=int) if numbers else sorted(own)
    known = class_names(ordered, {composed(label): name for label, name in given.items()} or names, place.parent)
    if numbers and not given and not names:
        LOG.warning("%s has no class names, so prompts will say the numbers: write %s beside it", place, NAMES)
    return {label: (position, known[label]) for position, label in enumerate(ordered)}
