"""Inputs of predictions: files, folders, globs, lists and tar shards, as one compact sequence of images."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from glob import glob
from itertools import chain, pairwise
from pathlib import Path

from PIL import Image

from promptvision.data.decode import ADDRESS, SUFFIXES, BadImage, is_address, open_image
from promptvision.data.images import Item
from promptvision.data.readers.layout import read_text
from promptvision.data.readers.list_rows import cells_of
from promptvision.data.readers.search import LeftOut, walk
from promptvision.data.readers.shards import Member, Shards, images_in
from promptvision.data.readers.words import columns_of
from promptvision.errors import InputError, shown

LOG = logging.getLogger(__name__)
SHARD = ".tar"
MARK = "\0"
"""Between a shard, the name of an image in it, its first byte and its size, in one entry."""
PART = 10_000
"""Most images of a part."""
LISTS = (".txt", ".csv", ".tsv")


class ImageList(Sequence[Item]):
    """Entries of images, in one block of bytes: their length and eight bytes each is all the memory that they take.

    An entry is the path of a file; an image in a shard, see MARK; or a shard as a whole.
    """

    def __init__(self, entries: Iterable[str]):
        self.text, self.ends = bytearray(), array("Q")
        for entry in entries:
            self.text += entry.encode("utf-8", "surrogateescape")
            self.ends.append(len(self.text))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        """Return (entry, index, ""), or the entries of a slice as a list of their own."""
        if isinstance(index, slice):
            return ImageList(self.entry(number) for number in range(*index.indices(len(self))))
        return self.entry(index), index, ""

    def entry(self, index: int) -> str:
        """Return one entry; IndexError at the end."""
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].decode("utf-8", "surrogateescape")

    def parts(self) -> list[range]:
        """Return the numbers of the entries of each part: a shard as a whole, or up to PART others in a row."""
        ends, start = [0], 0
        for number in range(len(self)):
            whole = self.entry(number).lower().endswith(SHARD)
            if whole or number - start == PART:
                ends.append(number)
                start = number
            if whole:
                start = number + 1
                ends.append(start)
        ends = sorted({*ends, len(self)})
        return [range(start, end) for start, end in pairwise(ends)]

    def fingerprint(self) -> str:
        """Return the SHA-256 of all entries in their order."""
        digest = hashlib.sha256(self.ends)
        digest.update(self.text)
        return digest.hexdigest()


def find_images(names: Sequence[str], lists: Sequence[str] = (), *, inside: bool = True) -> ImageList:
    """Return files as given, the images and shards below folders, globs expanded, each once; then the rows of lists.

    Folders are searched as training does. `inside`: list the images of a shard (.tar) in its place. A warning says
    what a search leaves out. InputError for a name that leads to no image.
    """
    left_out = LeftOut()
    paths = chain(_named(names, left_out), chain.from_iterable(map(listed, lists)))
    found = ImageList(expanded(paths, left_out) if inside else paths)
    for sentence in left_out.sentences():
        LOG.warning("%s", sentence)
    if not found:
        raise InputError(f"{' and '.join(map(shown, lists))} {'names' if len(lists) == 1 else 'name'} no image")
    return found


def _named(names: Sequence[str], left_out: LeftOut) -> Iterator[str]:
    """Yield the images and shards that names lead to; of several names, each image once."""
    seen = set[str]()
    for name in names:
        given = [name] if os.path.exists(name) else sorted(glob(name, recursive=True))
        count = 0
        for path in chain.from_iterable(_below(path, left_out) for path in given):
            count += 1
            if len(names) == 1 and len(given) == 1:
                yield path
            elif (place := os.path.abspath(path)) not in seen:
                seen.add(place)
                yield path
        if not count:
            why = f"; {ADDRESS}" if is_address(name) else "".join(f"; {each}" for each in left_out.sentences()[:1])
            raise InputError(f"no image at {shown(name)}{why}")


def _below(path: str, left_out: LeftOut) -> Iterator[str]:
    """Yield a file as `Path` spells it, or what is below a folder; nothing for a name without a file."""
    if os.path.isdir(path):
        yield from walk(Path(path), left_out, (*SUFFIXES, SHARD))
    elif os.path.exists(path):
        yield str(Path(path))


def listed(name: str) -> Iterator[str]:
    """Yield the paths of a list: a line each (.txt), or the column of a table (.csv, .tsv) with a name for paths.

    They are relative to the list's folder, or to the current one, whichever has the first of them.
    """
    file = Path(name)
    if file.suffix.lower() not in LISTS:
        raise InputError(f"--list {shown(name)} is no list; a list ends in {', '.join(LISTS)}")
    rows = _rows(file, read_text(file, "list"))
    first = next(rows, None)
    base = file.parent if first and os.path.exists(file.parent / first) else Path()
    for path in chain([first] if first else [], rows):
        yield path if is_address(path) else str(base / path)


def _rows(file: Path, text: str) -> Iterator[str]:
    """Yield the paths of a list as they are written."""
    if file.suffix.lower() == ".txt":
        yield from filter(None, (line.strip(" \t") for line in re.split(r"\r?\n", text)))
        return
    table = cells_of(file, text)
    first, header = next(table, (1, []))
    images = [place for place, cell in enumerate(header) if cell.strip().lower().endswith((*SUFFIXES, SHARD))]
    columns = columns_of("path", header) or images
    if not columns:
        raise InputError(f"{file} needs a column of paths, such as path; its first line is {','.join(header)!r}")
    for line, cells in chain([(first, header)] if columns is images else [], table):
        if len(cells) <= columns[0] or not cells[columns[0]].strip():
            raise InputError(f"{file}, line {line}: no path in {','.join(cells)!r}")
        yield cells[columns[0]].strip()


def expanded(paths: Iterable[str], left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield files as they are, and the images of a shard in its place.

    A shard that cannot be read, or has no image, stays as it is: `open_entry` says what is wrong with it.
    """
    for path in paths:
        count = 0
        if path.lower().endswith(SHARD):
            with suppress(InputError):
                for key, suffix, members in images_in(Path(path), path, left_out or LeftOut()):
                    count += 1
                    member = members[suffix]
                    yield MARK.join((path, f"{key}.{suffix}", f"{member.start}", f"{member.size}"))
        if not count:
            yield path


def open_entry(entry: str) -> Image.Image:
    """Return the image of an entry as RGB, see `decode.read_image`; BadImage if it cannot be read."""
    path, *member = entry.split(MARK)
    if member:
        name, start, size = member
        return Shards("", {shown_entry(entry): Member(path, int(start), int(size))}).open(shown_entry(entry))
    if path.lower().endswith(SHARD):
        try:
            next(images_in(Path(path), path, LeftOut()), None)
        except InputError as error:
            raise BadImage(str(error)) from None
        raise BadImage(f"shard {shown(path)} holds no image")
    return open_image("", path)


def shown_entry(entry: str) -> str:
    """Return the path of an entry, as predictions name it: of an image in a shard, `shard.tar/name`."""
    return "/".join(entry.split(MARK)[:2])
