"""Somebody's own images as a Hugging Face data set on disk: Arrow files of `save_to_disk`, or Parquet files.

They are read with pyarrow (`pip install promptvision[hub]`), without the package `datasets`.
"""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from promptvision.data.card import Card
from promptvision.data.decode import BadImage, read_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.default_split import complete
from promptvision.data.readers.layout import data_root, missing
from promptvision.data.readers.list_rows import COLUMNS, Row
from promptvision.data.readers.names import label_table, read_names
from promptvision.data.readers.shards import part_of
from promptvision.errors import InputError, unknown

LOG = logging.getLogger(__name__)
SUFFIXES = (".arrow", ".parquet")
GROUPS_KEPT = 2
"""Row groups of a Parquet file that stay decoded: images that are read in order are decoded once."""


def read_hub_folder(card: Card, root: str, *, image: str = "", label: str = "") -> Images:
    """`<root>/**/*.arrow` or `*.parquet`; a folder or word of a file's name, such as train, tells its part.

    `image`, `label`: the columns, where they are not the first of the types Image and ClassLabel, or of their usual
    names. Class names are those of the ClassLabel, or `names.txt`, or the labels. Images with the label -1, as the
    Hub marks unknown ones, are left out. Missing splits are made by `own_splits.complete`. Arrow files are mapped into
    memory; of a Parquet file whole row groups must be decoded, so shuffled reading of many is slow without a cache.
    """
    _need_pyarrow(card)
    top = data_root(card, root, otherwise="")
    files = sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if _is_data(path, top))
    if not files:
        raise missing(card, f"{top} holds no .arrow or .parquet files")
    columns = _columns(card, top, files[0], image, label)
    rows: dict[str, list[Row]] = {}
    for file in files:
        rows.setdefault(part_of(file), []).extend(_rows(top, file, *columns[1:]))
    if "" in rows and len(rows) > 1:
        raise InputError(f"data set {card.name!r}: only some files in {top} tell by their names whether they are train")
    everything = [row for own in rows.values() for row in own]
    if not everything:
        raise missing(card, f"{top} holds no labelled images")
    labels = label_table(everything, top / files[0], read_names(top))
    given: dict[str, list[Item]] = {part: [(row.path, *labels[row.label]) for row in own] for part, own in rows.items()}
    return Images(*complete(given), Cells(str(top), columns[0]), str(top), file_of=file_of)


def file_of(path: str) -> str:
    """The file that holds an image: "train/data-00000.arrow/17" -> "train/data-00000.arrow"."""
    return path.rpartition("/")[0]


def _need_pyarrow(card: Card) -> None:
    try:
        import pyarrow  # noqa: F401  (an extra)
    except ImportError:
        message = f"data set {card.name!r} is read with pyarrow, which is missing: pip install 'promptvision[hub]'"
        raise InputError(message) from None


def _is_data(path: Path, top: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(top).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and not path.name.startswith("cache-")


def _columns(card: Card, top: Path, file: str, image: str, label: str) -> tuple[str, str, list[str]]:
    """The columns of images and labels, and the class names of the latter, if it has some."""
    features = _features(top / file)
    for column in (image, label):
        if column and column not in features:
            raise InputError(f"data set {card.name!r}, {top / file}: {unknown('column', column, features)}")
    usual = (*COLUMNS["label"], *COLUMNS["name"])
    image = image or _first(features, "Image", COLUMNS["path"])
    label = label or _first(features, "ClassLabel", usual)
    for column, what in ((image, "images"), (label, "labels")):
        if not column:
            raise InputError(f"{top / file} has no column of {what}: its columns are {', '.join(features)}")
    return image, label, list(features[label].get("names", []))


def _first(features: Mapping[str, Mapping[str, Any]], kind: str, usual: Sequence[str]) -> str:
    """The first column of a type, those of usual names first; without any of the type, the first of a usual name."""
    typed = [name for name, feature in features.items() if feature.get("_type") == kind]
    return next((name for name in usual if name in typed), next(iter(typed), "")) or next(
        (name for name in usual if name in features), ""
    )


def _features(file: Path) -> dict[str, dict[str, Any]]:
    """Column -> its type in the words of `datasets.Features`; {} of a column about which nothing is written."""
    with _reading(file):
        schema = _open(file).schema
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    known = written.get("info", {}).get("features") or {}
    return {name: dict(known[name]) if isinstance(known.get(name), dict) else {} for name in schema.names}


def _rows(top: Path, file: str, label: str, names: Sequence[str]) -> list[Row]:
    """A row for each labelled image of a file."""
    with _reading(top / file):
        values = _open(top / file).column(label)
    rows = []
    for number, value in enumerate(values):
        place = f"{top / file}, row {number}"
        if value is None or value == -1:
            continue
        if not isinstance(value, int | str) or (names and value not in range(len(names))):
            raise InputError(f"{place}: {value!r} is no label, which is an integer or a text")
        name = names[int(value)] if names else ""
        rows.append(Row(f"{file}/{number:06d}", str(value), name, "", place))
    if len(rows) < len(values):
        LOG.warning("%s: %d images without a label are left out", top / file, len(values) - len(rows))
    return rows


class ArrowFile:
    """A file of `save_to_disk`, mapped into memory."""

    def __init__(self, file: Path):
        import pyarrow as pa

        self.table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        self.schema = self.table.schema

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return self.table.column(name).to_pylist()

    def cell(self, name: str, row: int) -> Any:
        """One value of a column."""
        return self.table.column(name)[row].as_py()


class ParquetFile:
    """A Parquet file, of which the row groups read last are kept."""

    def __init__(self, file: Path):
        import pyarrow.parquet as pq

        self.file = pq.ParquetFile(file)
        self.schema = self.file.schema_arrow
        sizes = [self.file.metadata.row_group(n).num_rows for n in range(self.file.metadata.num_row_groups)]
        self.starts = [0, *accumulate(sizes)]
        self.kept: dict[tuple[str, int], Any] = {}

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return self.file.read(columns=[name]).column(name).to_pylist()

    def cell(self, name: str, row: int) -> Any:
        """One value of a column."""
        group = bisect_right(self.starts, row) - 1
        if (name, group) not in self.kept:
            while len(self.kept) >= GROUPS_KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[name, group] = self.file.read_row_group(group, columns=[name]).column(name)
        return self.kept[name, group][row - self.starts[group]].as_py()


def _open(file: Path) -> ArrowFile | ParquetFile:
    return ParquetFile(file) if file.suffix.lower() == ".parquet" else ArrowFile(file)


@contextmanager
def _reading(file: Path, what: str = "") -> Iterator[None]:
    """Tell in one sentence that a file, or an image in it, cannot be read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or f"it is no {file.suffix[1:]} file, broken or cut short"
        kind, name = (BadImage, f"image {what}") if what else (InputError, str(file))
        raise kind(f"{name} cannot be read: {reason}") from None


class Cells:
    """Opens "<file below root>/<row>": the bytes in a cell of the column `image`. Each process opens files anew."""

    def __init__(self, root: str, image: str):
        self.root, self.image = root, image
        self.files: dict[str, ArrowFile | ParquetFile] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "image": self.image, "files": {}}

    def __call__(self, path: str) -> Image.Image:
        """The image as RGB, see `files.read_image`."""
        file, _, row = path.rpartition("/")
        name = os.path.join(self.root, path)
        with _reading(Path(self.root, file), name):
            if file not in self.files:
                self.files[file] = _open(Path(self.root, file))
            cell = self.files[file].cell(self.image, int(row))
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise BadImage(f"image {name} cannot be read: the data set holds no bytes of it")
        return read_image(data, name)
