"""Rows of a list of images, from a table (CSV), JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from promptvision.data.decode import SUFFIXES
from promptvision.data.readers.layout import read_text
from promptvision.errors import InputError

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"),
    "label": ("label", "target", "class_id", "class", "category"),
    "name": ("class_name", "classname", "label_name"),
    "split": ("split", "part", "subset", "set"),
}
"""Field of a row -> the names its column may have; upper case, spaces and hyphens do not matter."""
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
    """Read a table with a header, or without one if its first cell ends like an image: path, label, perhaps split."""
    csv.field_size_limit(1 << 20)
    delimiter, header = _first_line(text)
    bare = len(header) in (2, 3) and header[0].strip().lower().endswith(SUFFIXES)
    fields = ("path", "label", "split")[: len(header)]
    columns = {field: fields.index(field) for field in fields} if bare else _columns(header, str(file), "columns")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, least = [], max(columns.values()) + 1
    try:
        for number, cells in enumerate(lines):
            if any(cell.strip() for cell in cells) and (number or bare):
                place = f"{file}, line {lines.line_num}"
                if len(cells) < least:
                    raise InputError(f"{place}: expected at least {least} cells, found {len(cells)}")
                rows.append(_row({field: cells[position] for field, position in columns.items()}, place))
    except csv.Error as error:
        raise InputError(f"{file}, line {lines.line_num}: {error}") from None
    return rows


def _first_line(text: str) -> tuple[str, list[str]]:
    """Return the delimiter that divides the first line into the most cells, and these cells."""
    delimiter, cells = DELIMITERS[0], list[str]()
    for other in DELIMITERS:
        with suppress(csv.Error):
            found = next(csv.reader(io.StringIO(text, newline=""), delimiter=other), [])
            if len(found) > len(cells):
                delimiter, cells = other, found
    return delimiter, cells


def _columns(names: Sequence[str], place: str, kind: str) -> dict[str, int]:
    """Return field -> position of its column or key; of several names the first of `COLUMNS` counts."""
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in names]
    found = {field: [plain.index(name) for name in known if name in plain] for field, known in COLUMNS.items()}
    if not found["path"] or not (found["label"] or found["name"]):
        paths, labels = ", ".join(COLUMNS["path"]), ", ".join((*COLUMNS["label"], *COLUMNS["name"]))
        has = ", ".join(map(repr, names)) or "none"
        raise InputError(f"{place} needs {kind} for a path ({paths}) and a label ({labels}), but has {has}")
    return {field: positions[0] for field, positions in found.items() if positions}


def _row(fields: Mapping[str, Any], place: str) -> Row:
    """Return the row of these fields. InputError for a value of another type, and without a path or a label."""
    for field, value in fields.items():
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
    columns, values = _columns(list(entry), place, "keys"), list(entry.values())
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
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"list {file} is not JSON: {error}") from None
    if isinstance(found, list):
        return [_entry(entry, "", f"{file}, entry {n}") for n, entry in enumerate(found)]
    if not isinstance(found, dict):
        raise InputError(f"list {file} must hold a list of objects, or an object of lists, not {type(found).__name__}")
    if found and all(isinstance(own, list) for own in found.values()):
        splits = ((split, n, entry) for split, own in found.items() for n, entry in enumerate(own))
        return [_entry(entry, split, f"{file}, {split}[{n}]") for split, n, entry in splits]
    return [_row({"path": path, "label": label}, f"{file}, {path!r}") for path, label in found.items()]


def read_json_lines(file: Path, text: str) -> list[Row]:
    """Read one entry from each line."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{file}, line {number}"
        if line.strip():
            try:
                rows.append(_entry(json.loads(line), "", place))
            except json.JSONDecodeError as error:
                raise InputError(f"{place} is not JSON: {error}") from None
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
