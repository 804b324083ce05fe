"""Your own images as a Hugging Face dataset on disk: Arrow files of `save_to_disk`, or Parquet files.

They are read with pyarrow (`pip install promptvision[hub]`), without the package `datasets`.
"""

from __future__ import annotations

import logging
import os
import posixpath
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from promptvision.atomic import parse_json, refuse_damaged, refuse_special
from promptvision.data.card import Card
from promptvision.data.decode import BadImage, read_image
from promptvision.data.images import Images
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.default_split import split_rows
from promptvision.data.readers.layout import data_root, missing
from promptvision.data.readers.list_rows import Row
from promptvision.data.readers.names import read_names
from promptvision.data.readers.search import LeftOut, search
from promptvision.data.readers.words import columns_of, split_in
from promptvision.errors import InputError, counted, unknown

LOG = logging.getLogger(__name__)
SUFFIXES = (".arrow", ".parquet")
BROKEN = "it is no Arrow or Parquet file, broken or cut short"
GROUPS_KEPT = 2
"""Row groups of a Parquet file that stay decoded: images that are read in order are decoded once."""


def read_hub_folder(card: Card, root: str, faults: Faults, *, image: str = "", label: str = "") -> Images:
    """Read `<root>/**/*.arrow` or `*.parquet`; a folder or word of a file's name, such as train, is its split.

    `image`, `label`: the columns, if they are not the first of the types Image and ClassLabel, or of their usual
    names. Class names are those of the ClassLabel, or `names.txt`, or the labels. Images with the label -1, as the
    Hub marks unknown ones, are left out. Missing splits are made by `default_split.complete`. Arrow files are mapped
    into memory; of a Parquet file whole row groups must be decoded, so shuffled reading is slow without a cache.
    """
    try:
        import pyarrow  # noqa: F401  (an extra)
    except ImportError:
        message = f"dataset {card.name!r} is read with pyarrow, which is missing: pip install 'promptvision[hub]'"
        raise InputError(message) from None
    top = data_root(card, root, otherwise="")
    found = search(top, LeftOut(), SUFFIXES)
    files = [path.relative_to(top).as_posix() for path in found if not path.name.startswith("cache-")]
    if not files:
        raise missing(card, f"{top} holds no .arrow or .parquet files")
    image, label, names = find_columns(top / files[0], image, label)
    rows = [row for file in files for row in _rows(top, file, label, names, faults)]
    if not rows:
        raise missing(card, f"{top} holds no labelled images")
    lists = split_rows(rows, top / files[0], read_names(top))
    return Images(*lists, Cells(str(top), image), str(top), file_of=posixpath.dirname)


def find_columns(file: Path, image: str, label: str) -> tuple[str, str, list[str]]:
    """Return the columns of images and of labels, and the class names of the latter, if the file has them.

    A column that is not given is the first of its type, those of usual names first, or else of a usual name.
    """
    with refuse_damaged(f"{file} cannot be read", BROKEN):
        schema = Table(file).schema
    written = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), f"the Hub's metadata in {file}")
    for key in ("info", "features"):
        written = written.get(key) if isinstance(written, dict) else None
    described = written if isinstance(written, dict) else {}
    features = {name: own if isinstance(own := described.get(name), dict) else {} for name in schema.names}
    chosen: list[str] = []
    for column, kind, fields in ((image, "Image", ("path",)), (label, "ClassLabel", ("label", "name"))):
        usual = [schema.names[n] for field in fields for n in columns_of(field, schema.names)]
        typed = [name for name, feature in features.items() if feature.get("_type") == kind]
        likely = [*(name for name in usual if name in typed), *typed, *(name for name in usual if name in features)]
        if column and column not in features:
            raise InputError(f"{file}: {unknown('column', column, features)}")
        if not column and not likely:
            what = "labels" if chosen else "images"
            raise InputError(f"{file} has no column of {what}: its columns are {', '.join(features)}")
        chosen.append(column or likely[0])
    names = features[chosen[1]].get("names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"the Hub's metadata in {file}: the names of {chosen[1]!r} are no list of texts")
    return chosen[0], chosen[1], names


def _rows(top: Path, file: str, label: str, names: Sequence[str], faults: Faults) -> list[Row]:
    """Return a row for each labelled image of a file."""
    with refuse_damaged(f"{top / file} cannot be read", BROKEN):
        values = Table(top / file).column(label)
    labelled = [(number, value) for number, value in enumerate(values) if value is not None and value != -1]
    if len(labelled) < len(values):
        left = counted(len(values) - len(labelled), "image without a label is", "images without a label are")
        LOG.warning("%s: %s left out", top / file, left)
    rows, split = [], split_in(file)
    for number, value in labelled:
        with faults:
            place = f"{top / file}, row {number}"
            if not isinstance(value, int | str) or (names and value not in range(len(names))):
                raise InputError(f"{place}: {value!r} is no label, which is an integer or a text")
            name = names[int(value)] if names else ""
            rows.append(Row(f"{file}/{number:06d}", str(value), name, split, place))
    return rows


class Table:
    """An Arrow file, mapped into memory, or a Parquet file, of which the row groups read last are kept."""

    def __init__(self, file: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.read: Callable[[int, str], Any]
        size = refuse_special(file, str(file)).st_size
        if file.suffix.lower() == ".parquet":
            parquet = pq.ParquetFile(file)
            self.schema = parquet.schema_arrow
            self.read = lambda group, name: parquet.read_row_group(group, columns=[name]).column(name)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        else:
            table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
            self.schema, self.read, sizes = table.schema, lambda group, name: table.column(name), [len(table)]
        self.starts = [0, *accumulate(sizes)]
        if self.starts[-1] > size:  # an image takes a byte or more; a column of nothing takes none
            raise InputError(f"{file} says that it has {self.starts[-1]:,} rows, more than its {size:,} bytes can hold")
        self.kept: dict[tuple[str, int], Any] = {}

    def column(self, name: str) -> list[Any]:
        """Return all values of a column."""
        return [value for group in range(len(self.starts) - 1) for value in self.read(group, name).to_pylist()]

    def cell(self, name: str, row: int) -> Any:
        """Return one value of a column."""
        group = bisect_right(self.starts, row) - 1
        if (name, group) not in self.kept:
            while len(self.kept) >= GROUPS_KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[name, group] = self.read(group, name)
        return self.kept[name, group][row - self.starts[group]].as_py()


class Cells:
    """Opener of "<file below root>/<row>": the bytes in a cell of the column `image`. Each process opens the files."""

    def __init__(self, root: str, image: str):
        self.root, self.image = root, image
        self.files: dict[str, Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "image": self.image, "files": {}}

    def __call__(self, path: str) -> Image.Image:
        """Return the image as RGB, see `decode.read_image`."""
        file, _, row = path.rpartition("/")
        name = os.path.join(self.root, path)
        with refuse_damaged(f"image {name} cannot be read", BROKEN, BadImage):
            if file not in self.files:
                self.files[file] = Table(Path(self.root, file))
            cell = self.files[file].cell(self.image, int(row))
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise BadImage(f"image {name} cannot be read: the dataset holds no bytes of it")
        return read_image(data, name)
