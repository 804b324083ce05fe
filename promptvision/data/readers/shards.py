"""Your own images in tar shards as webdataset writes them: `key.jpg` beside `key.cls`, `.txt` or `.json`."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from promptvision.atomic import parse_json, refuse_damaged, refuse_special
from promptvision.data.card import Card
from promptvision.data.decode import SUFFIXES, BadImage, read_image
from promptvision.data.images import Images
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.default_split import split_rows
from promptvision.data.readers.layout import data_root, hidden, missing, read_text
from promptvision.data.readers.list_rows import Row, row_of
from promptvision.data.readers.names import read_names
from promptvision.data.readers.search import LeftOut, search, unread
from promptvision.data.readers.words import split_in
from promptvision.errors import InputError

LABELS = ("cls", "txt", "json")
"""Suffixes of an image's label, in the order in which they are tried: an integer or name, or an object with one."""
MOST_OF_LABEL = 1 << 20
"""Bytes of such a file."""
PACKED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz")
CLASS_NAMES = "classnames.txt"


class Member(NamedTuple):
    """The place of a file in a shard: the shard below the root, the first byte, and the number of bytes."""

    shard: str
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Shards:
    """Images in tar files below `root`, read in place; `members`: path of an image -> its bytes in a shard."""

    root: str
    members: dict[str, Member]

    def open(self, path: str) -> Image.Image:
        """Return the image as RGB, see `decode.read_image`."""
        name = os.path.join(self.root, path)
        with refuse_damaged(f"image {name} cannot be read", kind=BadImage):
            return read_image(self.read(self.members[path]), name)

    def read(self, member: Member) -> bytes:
        """Return the bytes of a file in a shard."""
        with Path(self.root, member.shard).open("rb") as file:
            file.seek(member.start)
            return file.read(member.size)

    def shard(self, path: str) -> str:
        """Return the file below the root that holds an image."""
        return self.members[path].shard


def read_shards(card: Card, root: str, faults: Faults) -> Images:
    """Read `<root>/**/*.tar`; a folder or word of a shard's name, such as train in `train-000000.tar`, is its split.

    Class names are the lines of `<root>/classnames.txt`, by label from 0 on, or `names.txt`, or the labels. Missing
    splits are made by `default_split.complete`. Shards are indexed once, and images read in place.
    """
    top = data_root(card, root, otherwise="")
    shards = [path.relative_to(top).as_posix() for path in search(top, LeftOut(), (".tar",))]
    packed, left_out = search(top, LeftOut(), PACKED), LeftOut()
    if not shards:
        hint = f"; {packed[0]} is compressed, so single images cannot be read: unpack it to a .tar" if packed else ""
        raise missing(card, f"{top} holds no .tar files{hint}")
    for path in packed:
        left_out.add(path.relative_to(top), "compressed shard", why=", which must be unpacked to .tar")
    store = Shards(str(top), {})
    rows = [row for shard in shards for row in _index(store, shard, faults, left_out)]
    for sentence in left_out.sentences():
        faults.note(f"{top}: {sentence}")
    file = top / CLASS_NAMES
    lines = read_text(file, "file of class names").splitlines() if file.is_file() else []
    names = {f"{label}": name.strip() for label, name in enumerate(lines)} or read_names(top)
    return Images(*split_rows(rows, file, names), store.open, str(top), file_of=store.shard)


def _index(store: Shards, shard: str, faults: Faults, left_out: LeftOut) -> list[Row]:
    """Return a row for each image of a shard, and enter the image into `store.members`."""
    rows = []
    for key, image, members in images_in(Path(store.root, shard), shard, left_out):
        label = next((suffix for suffix in LABELS if suffix in members), None)
        with faults:
            place, path = f"{Path(store.root, shard)}, {key}", f"{shard}/{key}.{image}"
            if label is None:
                raise InputError(f"{place}: the image has no label, which is a file {key}.cls, .txt or .json")
            if path in store.members:
                raise InputError(f"{place}: two images of this name")
            if members[label].size > MOST_OF_LABEL:
                raise InputError(f"{place}.{label} has more than {MOST_OF_LABEL >> 20} MB: it is no label")
            row = _labelled(path, label, store.read(members[label]), place)
            store.members[path] = members[image]
            rows.append(row._replace(split=split_in(shard)))
    return rows


def images_in(file: Path, shard: str, left_out: LeftOut) -> Iterator[tuple[str, str, dict[str, Member]]]:
    """Yield (key, suffix of the image, all files of the key by suffix) for each image of a shard.

    An image beside another one, or beside a label, of the key that ends at the first dot of its own is left out:
    `1.seg.png` beside `1.jpg`.
    """
    samples = _samples(file, shard, left_out)
    for key, members in samples.items():
        image = next((suffix for suffix in members if f".{suffix}" in SUFFIXES), None)
        labelled = any(suffix in members for suffix in LABELS)
        folder, name = os.path.split(key)
        if image is None:
            for suffix in [suffix for suffix in members if suffix not in LABELS] if labelled else []:
                left_out.add(f"{shard}/{key}.{suffix}", *unread(f".{suffix}"))
        elif not labelled and samples.get(os.path.join(folder, name.partition(".")[0]), members) is not members:
            left_out.add(f"{shard}/{key}.{image}", "image", why=" of a key that has another image or the label")
        else:
            for other in [other for other in members if f".{other}" in SUFFIXES and other != image]:
                left_out.add(f"{shard}/{key}.{other}", "image", why=" of a key that has another image or the label")
            yield key, image, members


def _samples(file: Path, shard: str, left_out: LeftOut) -> dict[str, dict[str, Member]]:
    """Return key (the name up to its last dot, as keys may have dots) -> suffix -> the file in the shard."""
    samples: dict[str, dict[str, Member]] = {}
    with refuse_damaged(f"{file} cannot be read", "it is no tar file, broken or cut short"):
        refuse_special(file, str(file))
        with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as opened:
            for member in opened:
                if ".." in Path(member.name).parts:
                    left_out.add(f"{shard}/{member.name}", "file", why=" whose name leads out of the shard")
                elif any(map(hidden, Path(member.name).parts)):
                    left_out.add(f"{shard}/{member.name}", "hidden file")
                elif member.isfile():
                    folder, name = os.path.split(member.name)
                    key, _, suffix = name.rpartition(".") if "." in name else (name, "", "")
                    own = samples.setdefault(os.path.join(folder, key).replace(os.sep, "/"), {})
                    if suffix.lower() in own:
                        left_out.add(f"{shard}/{member.name}", "file", why=", as the shard has a later one of its name")
                    own[suffix.lower()] = Member(shard, member.offset_data, member.size)
            raw.seek(opened.offset)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError  # tarfile takes a cut or damaged header for the end, and the rest would be lost silently
    return samples


def _labelled(path: str, suffix: str, data: bytes, place: str) -> Row:
    """Return the row of an image from the file of its label."""
    with refuse_damaged(f"{place}.{suffix} is not UTF-8 text", "save it as UTF-8"):
        text = data.decode("utf-8-sig").strip()
    label = parse_json(text, f"{place}.{suffix}") if suffix == "json" else text
    return row_of({**label, "path": path} if isinstance(label, dict) else {"path": path, "label": label}, place)
