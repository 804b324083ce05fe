"""Rows of a list of images, from a table (CSV), JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from promptvision.data.decode import SUFFIXES
from promptvision.errors import InputError

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"),
    "label": ("label", "target", "class_id", "class", "category"),
    "name": ("class_name", "classname", "label_name"),
    "split": ("split", "part", "subset", "set"),
}
"""What a row may hold -> how its column may be called; upper case, spaces and hyphens do not matter."""
DELIMITERS = (",", ";", "\t", "|")


class Row(NamedTuple):
    """One image as the list has it. `label`: as text; the class name where there is no label. `place`: for errors."""

    path: str
    label: str
    name: str
    split: str
    place: str


def read_rows(file: Path) -> list[Row]:
    """The rows of a list, by the suffix of its file. InputError names the file, line or entry, and what is wrong."""
    if file.suffix.lower() not in READ:
        raise InputError(f"{file} is no list; a list ends in {', '.join(READ)}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"list {file} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"list {file} is not UTF-8 text: save it as UTF-8") from None
    return READ[file.suffix.lower()](file, text)


def _table(file: Path, text: str) -> list[Row]:
    """A table with a header, or without one if its first column ends like an image: path, label, and perhaps split."""
    csv.field_size_limit(1 << 20)
    delimiter, columns = _header(file, text)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for number, cells in enumerate(lines):
            if any(cell.strip() for cell in cells) and (number or columns[0] is None):
                rows.append(_cells(cells, columns[1], f"{file}, line {lines.line_num}"))
    except csv.Error as error:
        raise InputError(f"{file}, line {lines.line_num}: {error}") from None
    return rows


def _header(file: Path, text: str) -> tuple[str, tuple[list[str] | None, dict[str, int]]]:
    """The delimiter; the header, or None; and where the columns are."""
    best: tuple[str, list[str]] = (",", [])
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        except csv.Error:
            continue
        if len(cells) > len(best[1]):
            best = delimiter, cells
    delimiter, cells = best
    columns = _columns(cells)
    if {"path"} < columns.keys() and columns.keys() & {"label", "name"}:
        return delimiter, (cells, columns)
    if len(cells) in (2, 3) and cells[0].strip().lower().endswith(SUFFIXES):
        return delimiter, (None, dict(zip(("path", "label", "split"), range(len(cells)), strict=False)))
    raise _no_columns(str(file), "columns", cells)


def _no_columns(place: str, what: str, found: Sequence[str]) -> InputError:
    known = f"a path ({', '.join(COLUMNS['path'])}) and a label ({', '.join((*COLUMNS['label'], *COLUMNS['name']))})"
    return InputError(f"{place} needs {what} for {known}, but has {', '.join(map(repr, found)) or 'none'}")


def _columns(names: Sequence[str]) -> dict[str, int]:
    """What a row holds -> number of the column; of several names the first of `COLUMNS`."""
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in names]
    found = {what: [plain.index(name) for name in known if name in plain] for what, known in COLUMNS.items()}
    return {what: places[0] for what, places in found.items() if places}


def _cells(cells: Sequence[str], columns: Mapping[str, int], place: str) -> Row:
    if len(cells) <= max(columns.values()):
        raise InputError(f"{place}: expected at least {max(columns.values()) + 1} cells, found {len(cells)}")
    return _row({what: cells[number] for what, number in columns.items()}, place)


def _row(facts: Mapping[str, Any], place: str) -> Row:
    texts = {what: _text(value, what, place) for what, value in facts.items()}
    path, label, name = texts.get("path", ""), texts.get("label", ""), texts.get("name", "").strip()
    if not path.strip():
        raise InputError(f"{place}: the path is empty")
    if not (label.strip() or name):
        raise InputError(f"{place}: {path!r} has no label")
    return Row(path, label.strip() or name, name, texts.get("split", ""), place)


def _text(value: object, what: str, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise InputError(f"{place}: the {what} must be a text or an integer, not {value!r}")


def _json(file: Path, text: str) -> list[Row]:
    """A list of objects; {"train": [...], "test": [...]} of objects or [path, label, name]; or {path: label}."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"list {file} is not JSON: {error}") from None
    if isinstance(found, list):
        return [_entry(entry, "", f"{file}, entry {n}") for n, entry in enumerate(found)]
    if isinstance(found, dict) and found and all(isinstance(own, list) for own in found.values()):
        parts = ((part, n, entry) for part, own in found.items() for n, entry in enumerate(own))
        return [_entry(entry, part, f"{file}, {part}[{n}]") for part, n, entry in parts]
    if isinstance(found, dict):
        return [_row({"path": path, "label": label}, f"{file}, {path!r}") for path, label in found.items()]
    raise InputError(f"list {file} must hold a list of objects, or an object of lists, not {type(found).__name__}")


def _json_lines(file: Path, text: str) -> list[Row]:
    """One object, or [path, label], in each line."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{file}, line {number}"
        if line.strip():
            try:
                rows.append(_entry(json.loads(line), "", place))
            except json.JSONDecodeError as error:
                raise InputError(f"{place} is not JSON: {error}") from None
    return rows


def _entry(entry: object, part: str, place: str) -> Row:
    if isinstance(entry, list) and len(entry) in (2, 3):
        facts = dict(zip(("path", "label", "name"), entry, strict=False))
        return _row({**facts, "split": part}, place)
    if isinstance(entry, dict):
        row = row_of(entry, place)
        return row._replace(split=row.split or part)
    raise InputError(f"{place}: expected an object or [path, label], found {entry!r}")


def row_of(entry: Mapping[str, Any], place: str) -> Row:
    """The row of an object with the keys of `COLUMNS`; `place` begins what an InputError says."""
    columns, values = _columns(list(entry)), list(entry.values())
    if "path" not in columns or not columns.keys() & {"label", "name"}:
        raise _no_columns(place, "keys", list(entry))
    return _row({what: values[number] for what, number in columns.items()}, place)


READ: dict[str, Callable[[Path, str], list[Row]]] = {
    ".csv": _table,
    ".tsv": _table,
    ".txt": _table,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
"""Suffix of a list -> how it is read."""
