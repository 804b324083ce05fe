"""Formats of predictions: CSV, JSON lines and Parquet, as parts that can be joined.

A row has the image's path, the most likely class and its probability, the `top` classes and their probabilities, and
the reason if the image cannot be read.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from promptvision.errors import InputError, unknown, without_formula
from promptvision.experiment.predict import Prediction

Rows = Sequence[Prediction]


COLUMNS: dict[str, Callable[[Prediction], Any]] = {
    "path": lambda row: row.path,
    "label": lambda row: row.top[0][0] if row.top else None,
    "probability": lambda row: shortest(row.top[0][1]) if row.top else None,
    "labels": lambda row: [name for name, _ in row.top],
    "probabilities": lambda row: [shortest(value) for _, value in row.top],
    "error": lambda row: row.error or None,
}


def shortest(value: float) -> float:
    """Return a float32 as the float whose text is shortest: 0.1, not 0.10000000149011612."""
    return float(str(np.float32(value)))


def as_json_lines(rows: Rows, top: int) -> bytes:
    """Return a line of JSON for each row."""
    lines = (json.dumps({name: value(row) for name, value in COLUMNS.items()}, ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def as_csv(rows: Rows, top: int) -> bytes:
    """Return a table with a header, columns for each of the `top` classes, and no cell that is a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    others = [name for rank in range(2, top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    writer.writerow(["path", "label", "probability", *others, "error"])
    for row in rows:
        cells = [cell for name, value in row.top for cell in (without_formula(name), shortest(value))]
        empty = [""] * (2 * top - len(cells))
        writer.writerow([without_formula(row.path), *cells, *empty, without_formula(row.error)])
    return file.getvalue().encode(errors="backslashreplace")


def as_parquet(rows: Rows, top: int) -> bytes:
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


def errors_of_csv(part: Path) -> list[str]:
    """Return the errors in a part."""
    with part.open(encoding="utf-8", newline="") as file:
        return [row["error"] for row in csv.DictReader(file) if row["error"]]


def errors_of_json_lines(part: Path) -> list[str]:
    """Return the errors in a part."""
    with part.open(encoding="utf-8") as file:
        return [error for error in (json.loads(line)["error"] for line in file) if error]


def errors_of_parquet(part: Path) -> list[str]:
    """Return the errors in a part."""
    import pyarrow.parquet as pq

    return [error for error in pq.read_table(part, columns=["error"], use_threads=False)["error"].to_pylist() if error]


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
    """Bytes of a part from its rows and the number of classes, the errors in a part, and parts joined to a file."""

    encode: Callable[[Rows, int], bytes]
    errors: Callable[[Path], list[str]]
    join: Callable[[Iterable[Path], IO[bytes]], None]


FORMATS = {
    ".csv": Format(as_csv, errors_of_csv, lambda parts, file: join_text(parts, file, header=1)),
    ".jsonl": Format(as_json_lines, errors_of_json_lines, join_text),
    ".parquet": Format(as_parquet, errors_of_parquet, join_tables),
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
