"""Formats of predictions: CSV, JSON lines and Parquet, as parts that can be joined.

A row has the image's path, the most likely class (or that it is unsure) and its probability, the `top` classes and
their probabilities, and the reason if the image cannot be read.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from promptvision.errors import InputError, unknown, without_formula
from promptvision.experiment.predict import Prediction

Rows = Sequence[Prediction]
Told = tuple[str, str | None, str | None]
"""Path, label and error of a row that is read again; empty for one that it has not."""

COLUMNS: dict[str, Callable[[Prediction], Any]] = {
    "path": lambda row: row.path,
    "label": lambda row: row.label,
    "probability": lambda row: shortest(row.top[0][1]) if row.top else None,
    "labels": lambda row: [name for name, _ in row.top],
    "probabilities": lambda row: [shortest(value) for _, value in row.top],
    "error": lambda row: row.error or None,
}


def shortest(value: float) -> float:
    """Return a float32 as the float whose text is shortest: 0.1, not 0.10000000149011612."""
    return float(str(np.float32(value)))


def as_json_lines(rows: Rows, top: int, threshold: bool) -> bytes:
    """Return a line of JSON for each row."""
    lines = (json.dumps({name: value(row) for name, value in COLUMNS.items()}, ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def as_csv(rows: Rows, top: int, threshold: bool) -> bytes:
    """Return a table with a header, columns for each of the `top` classes, and no cell that is a formula.

    With a `threshold`, which may hide the most likely class in `label`, that has the column `label_1` too.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    others = [name for rank in range(2, top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    first = ["label_1"] if threshold else []
    writer.writerow(["path", "label", "probability", *first, *others, "error"])
    for row in rows:
        cells = [cell for name, value in row.top for cell in (without_formula(name), shortest(value))]
        cells += [""] * (2 * top - len(cells))
        label = [without_formula(row.label or ""), cells[1], *(cells[:1] if threshold else [])]
        writer.writerow([without_formula(row.path), *label, *cells[2:], without_formula(row.error)])
    return file.getvalue().encode(errors="backslashreplace")


def as_parquet(rows: Rows, top: int, threshold: bool) -> bytes:
    """Return a Parquet file of one row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, text = pa.float32(), pa.string()
    kinds = [text, text, number, pa.list_(text), pa.list_(number), text]
    arrays = [pa.array(map(value, rows), kind) for value, kind in zip(COLUMNS.values(), kinds, strict=True)]
    file = io.BytesIO()
    pq.write_table(pa.table(arrays, list(COLUMNS)), file, compression="zstd")
    pa.default_memory_pool().release_unused()  # it would keep more with every part
    return file.getvalue()


def read_csv(part: Path) -> Iterator[Told]:
    """Yield the rows of a part."""
    with part.open(encoding="utf-8", newline="") as file:
        yield from ((row["path"], row["label"], row["error"]) for row in csv.DictReader(file))


def read_json_lines(part: Path) -> Iterator[Told]:
    """Yield the rows of a part."""
    with part.open(encoding="utf-8") as file:
        yield from ((row["path"], row["label"], row["error"]) for row in map(json.loads, file))


def read_parquet(part: Path) -> Iterator[Told]:
    """Yield the rows of a part, or of a file that was joined from many, group by group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(part) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group, ["path", "label", "error"], use_threads=False).columns
            yield from zip(*(column.to_pylist() for column in columns), strict=True)


def join_text(parts: Iterable[Path], file: IO[bytes], header: int = 0) -> None:
    """Write the parts one after another; of later ones without their `header` lines."""
    for number, part in enumerate(parts):
        with part.open("rb") as source:
            for _ in range(header if number else 0):
                source.readline()
            shutil.copyfileobj(source, file)


def join_tables(parts: Iterable[Path], file: IO[bytes]) -> None:
    """Write the parts as row groups of one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for part in parts:
        table = pq.read_table(part, use_threads=False)
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
        pa.default_memory_pool().release_unused()
    if writer:
        writer.close()


@dataclass(frozen=True)
class Format:
    """Bytes of a part from its rows, the number of classes and whether there is a threshold; the rows of a part; and
    parts joined to a file."""

    encode: Callable[[Rows, int, bool], bytes]
    read: Callable[[Path], Iterator[Told]]
    join: Callable[[Iterable[Path], IO[bytes]], None]


FORMATS = {
    ".csv": Format(as_csv, read_csv, lambda parts, file: join_text(parts, file, header=1)),
    ".jsonl": Format(as_json_lines, read_json_lines, join_text),
    ".parquet": Format(as_parquet, read_parquet, join_tables),
}
"""Suffix of a file of predictions -> its format."""


def format_of(path: Path) -> str:
    """Return the suffix among FORMATS that an output has, .parquet for a folder; InputError for another file."""
    suffix = path.suffix.lower() if path.suffix and not path.is_dir() else ".parquet"
    if suffix not in FORMATS:
        raise unknown("format of --output", suffix, FORMATS)
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise InputError(f"--output {path} needs pyarrow: pip install 'promptvision[parquet]'") from error
    return suffix
