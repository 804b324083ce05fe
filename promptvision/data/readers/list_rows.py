"""Rows of a list of images, from a table (CSV), JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from promptvision.atomic import parse_json
from promptvision.data.decode import SUFFIXES
from promptvision.data.readers.checks import Pairs
from promptvision.data.readers.layout import read_text
from promptvision.data.readers.words import COLUMNS, columns_of, split_word
from promptvision.errors import InputError

HOT = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Cell of a column of a class -> whether the image is of it."""
DELIMITERS = (",", ";", "\t", "|")


class Row(NamedTuple):
    """One image of a list. `label`: as text; the class name if there is no label. `place`: for errors."""

    path: str
    label: str
    name: str
    split: str
    place: str


def read_rows(file: Path) -> list[Row]:
    """Read the rows of a list by the suffix of its file. InputError names the file, the line or entry, and why."""
    if file.suffix.lower() not in READ:
        raise InputError(f"{file} is no list; a list ends in {', '.join(READ)}")
    return READ[file.suffix.lower()](file, read_text(file, "list"))


def read_table(file: Path, text: str) -> list[Row]:
    """Read a table with a header, or without one if a cell of its first line ends like an image.

    Such a line is path and label, in any order, and perhaps the split. Without any delimiter the label is what follows
    the last blank, as in ImageNet's lists.
    """
    spaced = _spaced(text)
    table = spaced or list(cells_of(file, text))
    header = table[0][1] if table else []
    images = [n for n, cell in enumerate(header) if cell.strip().lower().endswith(SUFFIXES)]
    bare = len(header) in (2, 3) and len(images) == 1
    if bare:
        columns = dict(zip(("path", "label", "split"), [*images, *({*range(len(header))} - {*images})], strict=False))
    else:
        numbers, below = [number for number, _ in table[1:]], [(f"{file}, line {n}", cells) for n, cells in table[1:]]
        header, made = one_hot(header, below)
        table, columns = list(zip(numbers, made, strict=True)), _columns(header, str(file), "columns")
        if _no_split(header, made, columns.get("split")):
            del columns["split"]
    rows, least = [], max(columns.values()) + 1
    for number, cells in table:
        place = f"{file}, line {number}"
        if len(cells) < least:
            raise InputError(f"{place}: expected at least {least} cells, found {len(cells)}")
        rows.append(_row({field: cells[position] for field, position in columns.items()}, place))
    return rows


def cells_of(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, cells) of each line of a table that is not empty."""
    csv.field_size_limit(1 << 20)
    delimiter, _ = _first_line(text, ("\t", *DELIMITERS) if file.suffix.lower() == ".tsv" else DELIMITERS)
    padded = re.search(rf'{re.escape(delimiter)} +"', text) is not None  # a blank before a quoted cell
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=padded)
    try:
        yield from ((lines.line_num, cells) for cells in lines if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise InputError(f"{file}, line {lines.line_num}: {error}") from None


def _spaced(text: str) -> list[tuple[int, list[str]]]:
    """Return (number, [path, label]) of lines `path label` with a blank between, perhaps below a header; else []."""
    if "\t" in text:
        return []
    lines = [(number, line.rsplit(None, 1)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for start, (_, first) in enumerate(lines[:2]):
        header = lines[0][1] if start else []
        if len(first) == 2 and first[0].lower().endswith(SUFFIXES) and (not start or len(header) == 2):
            return lines if not start or columns_of("path", header) else []
    return []


def _no_split(header: Sequence[str], rows: Sequence[Sequence[str]], column: int | None) -> bool:
    """Return whether a column called "data set" names something other than splits, such as where images are from."""
    if column is None or re.sub(r"[\s_-]+", "", header[column]).lower().rstrip("s") not in ("dataset", "phase"):
        return False
    return not any(split_word(cells[column]) for cells in rows if len(cells) > column)


def _first_line(text: str, delimiters: Sequence[str] = DELIMITERS) -> tuple[str, list[str]]:
    """Return the delimiter that divides the first line into the most cells, and these cells."""
    delimiter, cells = delimiters[0], list[str]()
    for other in delimiters:
        with suppress(csv.Error):
            found = next(csv.reader(io.StringIO(text, newline=""), delimiter=other), [])
            if len(found) > len(cells):
                delimiter, cells = other, found
    return delimiter, cells


def _columns(names: Sequence[str], place: str, kind: str) -> dict[str, int]:
    """Return field -> position of its column or key; of several names the first of `COLUMNS` counts."""
    found = {field: columns_of(field, names) for field in COLUMNS}
    if not found["path"] or not (found["label"] or found["name"]):
        paths, labels = ", ".join(COLUMNS["path"]), ", ".join((*COLUMNS["label"], *COLUMNS["name"]))
        has = ", ".join(map(repr, names)) or "none"
        also = f"or {kind} of 0 and 1, one for each class"
        raise InputError(f"{place} needs {kind} for a path ({paths}) and a label ({labels}; {also}), but has {has}")
    return {field: positions[0] for field, positions in found.items() if positions}


def one_hot(names: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows with a column `label` in place of columns of 0 and 1, one for each class (one-hot).

    They are taken as they are if there is a column of labels, or fewer than two columns that hold 0 and 1 alone.
    `rows`: (place, cells). InputError for a row that has not exactly one 1.
    """
    fields = {field: columns_of(field, names) for field in COLUMNS}
    taken = {*fields["path"][:1], *fields["split"][:1]}
    hot = [
        n
        for n in range(len(names))
        if n not in taken and all(len(cells) > n and str(cells[n]).strip().lower() in HOT for _, cells in rows)
    ]
    if not rows or fields["label"] or fields["name"] or not fields["path"] or len(hot) < 2:
        return list(names), [list(cells) for _, cells in rows]
    made = []
    for place, cells in rows:
        own = [names[n].strip() for n in hot if HOT[str(cells[n]).strip().lower()]]
        if len(own) != 1:
            which = f"{' and '.join(map(repr, own[:3]))} are 1" if own else "none is 1"
            raise InputError(f"{place}: an image has one class, but of its columns of classes {which}")
        made.append([*(cell for n, cell in enumerate(cells) if n not in hot), own[0]])
    return [*(name for n, name in enumerate(names) if n not in hot), "label"], made


def _row(fields: Mapping[str, Any], place: str) -> Row:
    """Return the row of these fields. InputError for a value of another type, and without a path or a label."""
    for field, value in fields.items():
        if isinstance(value, float) and value.is_integer():
            continue  # a whole number, as pandas writes integers beside a missing value
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise InputError(f"{place}: the {field} must be a text or an integer, not {value!r}")
    path, label, name, split = ("" if fields.get(field) is None else str(fields[field]) for field in COLUMNS)
    if not path.strip():
        raise InputError(f"{place}: the path is empty")
    label, name = label.strip(), name.strip()
    if not label and not name:
        raise InputError(f"{place}: {path!r} has no label")
    return Row(path, label or name, name, split, place)


def row_of(entry: Mapping[str, Any], place: str) -> Row:
    """Return the row of an object with the keys of `COLUMNS`. InputError, which begins with `place`, if it is wrong."""
    names, (values,) = one_hot(list(entry), [(place, list(entry.values()))])
    columns = _columns(names, place, "keys")
    return _row({field: values[position] for field, position in columns.items()}, place)


def _entry(entry: object, split: str, place: str) -> Row:
    """Return the row of an object, or of [path, label] or [path, label, name]."""
    if isinstance(entry, list) and len(entry) in (2, 3):
        return _row({**dict(zip(("path", "label", "name"), entry, strict=False)), "split": split}, place)
    if isinstance(entry, dict):
        row = row_of(entry, place)
        return row._replace(split=row.split or split)
    raise InputError(f"{place}: expected an object or [path, label], found {entry!r}")


def read_json(file: Path, text: str) -> list[Row]:
    """Read a list of entries; {"train": [...], "test": [...]} of entries; or {path: label}."""
    found = parse_json(text, f"list {file}", Pairs)
    if isinstance(found, list):
        return [_entry(entry, "", f"{file}, entry {n}") for n, entry in enumerate(found)]
    if not isinstance(found, Pairs):
        raise InputError(f"list {file} must hold a list of objects, or an object of lists, not {type(found).__name__}")
    if found and all(isinstance(own, list) for _, own in found.pairs):
        splits = ((split, n, entry) for split, own in found.pairs for n, entry in enumerate(own))
        return [_entry(entry, split, f"{file}, {split}[{n}]") for split, n, entry in splits]
    return [_row({"path": path, "label": label}, f"{file}, {path!r}") for path, label in found.pairs]


def read_json_lines(file: Path, text: str) -> list[Row]:
    """Read one entry from each line."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{file}, line {number}"
        if line.strip():
            rows.append(_entry(parse_json(line, place), "", place))
    return rows


READ: dict[str, Callable[[Path, str], list[Row]]] = {
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": read_table,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
}
"""Suffix of a list -> the function that reads it."""
