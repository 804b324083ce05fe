"""Somebody's own images in tar shards as webdataset writes them: `key.jpg` beside `key.cls`, `.txt` or `.json`."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from promptvision.data.card import Card
from promptvision.data.decode import SUFFIXES, BadImage, read_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.default_split import SPLITS, complete
from promptvision.data.readers.layout import data_root, missing
from promptvision.data.readers.list_rows import Row, row_of
from promptvision.data.readers.names import label_table, read_names
from promptvision.errors import InputError

LABELS = ("cls", "txt", "json")
"""Suffixes of an image's label, in the order in which they are taken: an integer or name, or an object with one."""
CLASS_NAMES = "classnames.txt"

Place = tuple[str, int, int]
"""(shard below the root, first byte, number of bytes)."""


def read_shards(card: Card, root: str) -> Images:
    """`<root>/**/*.tar`; a folder or word of a shard's name, such as train in `train-000000.tar`, tells its part.

    Class names are the lines of `<root>/classnames.txt`, by label from 0 on, or `names.txt`, or the labels. Missing
    splits are made by `own_splits.complete`. Shards are indexed once and images read where they lie.
    """
    top = data_root(card, root, otherwise="")
    shards = sorted(path.relative_to(top).as_posix() for path in top.rglob("*.tar"))
    if not shards:
        packed = next((path for path in sorted(top.rglob("*.tar.*"))), None)
        hint = f"; {packed} is compressed, which has no places to read from: unpack it to a .tar" if packed else ""
        raise missing(card, f"{top} holds no .tar files{hint}")
    places: dict[str, Place] = {}
    rows: dict[str, list[Row]] = {}
    for shard in shards:
        rows.setdefault(part_of(shard), []).extend(_rows(top, shard, places))
    if "" in rows and len(rows) > 1:
        raise InputError(
            f"data set {card.name!r}: only some shards in {top} tell by their names whether they are train"
        )
    everything = [row for own in rows.values() for row in own]
    labels = label_table(everything, top / CLASS_NAMES, _class_names(top))
    given = {part: _items(own, labels) for part, own in rows.items()}
    store = Shards(str(top), places)
    return Images(*complete(given), store.open, str(top), file_of=store.shard)


def part_of(name: str) -> str:
    """The part that a folder, or else a word of a file's name tells: "val/0.tar", "in1k-val-0001.tar" -> "val"."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _items(rows: list[Row], labels: dict[str, tuple[int, str]]) -> list[Item]:
    return [(row.path, *labels[row.label]) for row in rows]


def _class_names(top: Path) -> dict[str, str]:
    file = top / CLASS_NAMES
    if not file.is_file():
        return read_names(top)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    return {str(label): name.strip() for label, name in enumerate(lines)}


def _rows(top: Path, shard: str, places: dict[str, Place]) -> Iterator[Row]:
    """One row for each image of a shard; where it lies goes into `places`."""
    for key, members in _samples(top / shard).items():
        image = next((suffix for suffix in members if f".{suffix}" in SUFFIXES), None)
        if image is None:
            continue
        label = next((suffix for suffix in LABELS if suffix in members), None)
        place = f"{top / shard}, {key}"
        if label is None:
            raise InputError(f"{place}: the image has no label, which is a file {key}.cls, .txt or .json")
        path = f"{shard}/{key}.{image}"
        if path in places:
            raise InputError(f"{place}: two images of this name")
        places[path] = shard, *members[image]
        yield _labelled(path, label, _bytes(top / shard, *members[label]), place)


def _samples(shard: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Key (the name up to its first dot) -> suffix -> (first byte, number of bytes)."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as opened:
            for member in opened:
                if member.isfile():
                    folder, name = os.path.split(member.name)
                    key, _, suffix = name.partition(".")
                    own = samples.setdefault(os.path.join(folder, key).replace(os.sep, "/"), {})
                    own[suffix.lower()] = member.offset_data, member.size
            end = opened.offset
        if _bytes(shard, end, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError  # tarfile takes a cut or damaged header for the end, and the rest would be lost in silence
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no tar file, broken or cut short"
        raise InputError(f"shard {shard} cannot be read: {reason}") from None
    return samples


def _labelled(path: str, kind: str, data: bytes, place: str) -> Row:
    try:
        text = data.decode("utf-8-sig").strip()
        label = json.loads(text) if kind == "json" else text
    except ValueError:
        raise InputError(f"{place}.{kind} is not {'JSON' if kind == 'json' else 'UTF-8 text'}") from None
    if isinstance(label, dict):
        return row_of({**label, "path": path}, place)
    return row_of({"path": path, "label": label}, place)


def _bytes(shard: Path, first: int, count: int) -> bytes:
    with shard.open("rb") as file:
        file.seek(first)
        return file.read(count)


@dataclass(frozen=True)
class Shards:
    """Images in tar files below `root`, read where `places` says: path -> (shard, first byte, number of bytes)."""

    root: str
    places: dict[str, Place]

    def open(self, path: str) -> Image.Image:
        """The image as RGB, see `files.read_image`."""
        shard, first, count = self.places[path]
        file = os.path.join(self.root, path)
        try:
            return read_image(_bytes(Path(self.root, shard), first, count), file)
        except OSError as error:
            raise BadImage(f"image {file} cannot be read: {error.strerror}") from None

    def shard(self, path: str) -> str:
        """The file below the root that holds an image."""
        return self.places[path][0]
