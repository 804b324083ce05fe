"""Class names of somebody's own images: what folders or lists call them, or what a file `names.txt` says."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from promptvision.data.readers.list_rows import Row
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)
NAMES = "names.txt"


def read_names(folder: Path) -> dict[str, str]:
    """`names.txt` in the folder of the data: lines `folder or label<TAB or comma>class name`; {} if there is none."""
    file = folder / NAMES
    if not os.path.isfile(file):
        return {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        raw, found, name = (part.strip() for part in line.partition("\t" if "\t" in line else ","))
        if not line.strip():
            continue
        if not raw or not found and "\t" not in line or not name:
            raise InputError(f"{file}, line {number}: expected `folder,class name`, found {line!r}")
        if names.setdefault(composed(raw), name) != name:
            raise InputError(f"{file}, line {number}: {raw!r} is {names[composed(raw)]!r} above and {name!r} here")
    return names


def class_names(raw: Iterable[str], names: Mapping[str, str], place: Path) -> dict[str, str]:
    """What the data call a class -> its name for prompts, by `names` if there are any.

    Names come in Unicode's composed form (NFC), whatever form the file system keeps, so that a tokenizer sees the same
    text everywhere. InputError for a class that `names` lacks, a name that is no text, and one that two classes bear.
    """
    found: dict[str, str] = {}
    for own in raw:
        _check_text(own, place)
        if names and composed(own) not in names:
            raise InputError(f"{place / NAMES} has no name for the class {own!r}: add a line `{own},its name`")
        found[own] = composed(names.get(composed(own), own))
    _check_distinct(found, place)
    return found


def label_table(rows: Sequence[Row], place: Path, names: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """What a list calls a class -> (label, name): integers in their order, others sorted; labels from 0 on.

    Names are the rows' own, else those of `names`, else the labels. `place`: the list, for errors.
    """
    own = {row.label for row in rows}
    numbers = all(_is_integer(label) for label in own)
    given: dict[str, str] = {}
    for row in rows:
        if row.name and given.setdefault(row.label, row.name) != row.name:
            raise InputError(f"{row.place}: label {row.label} is {given[row.label]!r} above and {row.name!r} here")
    ordered = sorted(own, key=int) if numbers else sorted(own)
    known = class_names(ordered, {composed(label): name for label, name in given.items()} or names, place.parent)
    if numbers and not given and not names:
        LOG.warning("%s has no class names, so prompts will say the numbers: write %s beside it", place, NAMES)
    return {label: (position, known[label]) for position, label in enumerate(ordered)}


def _is_integer(label: str) -> bool:
    return label.isascii() and label.removeprefix("-").isdecimal() and str(int(label)) == label


def composed(text: str) -> str:
    """Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text)


def _check_text(name: str, place: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the class {ascii(name)} in {place} is not named in UTF-8: rename it") from None


def _check_distinct(found: Mapping[str, str], place: Path) -> None:
    """Refuse two classes of one name (but the same name in two forms of Unicode), and warn of nearly the same."""
    owners: dict[str, str] = {}
    for raw, name in found.items():
        other = owners.setdefault(name, raw)
        if composed(other) != composed(raw):
            raise InputError(f"the classes {other!r} and {raw!r} in {place} have the same name {name!r}")
    alike: dict[str, str] = {}
    for name in owners:
        other = alike.setdefault(name.replace("_", " ").casefold(), name)
        if other != name:
            LOG.warning("the classes %r and %r differ in case only: to most tokenizers they are the same", other, name)
