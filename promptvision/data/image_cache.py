"""Images decoded once, and perhaps made smaller, in one file that is mapped into memory: for fast epochs.

A cache folder holds `pixels.u8`, the RGB bytes of one image after the other, and `index.jsonl`: a line that says how
they were made, then one for each image (path, stamp of its file, place, height, width; or why it could not be read).
Building may be stopped at any moment and goes on where it was; an image whose file has changed is decoded anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from rich.progress import track
from torchvision.transforms import InterpolationMode, v2

from promptvision.atomic import locked
from promptvision.data.decode import BadImage
from promptvision.data.images import Images, Item
from promptvision.errors import InputError, unknown

FORMAT = 1
PIXELS, INDEX, UNFINISHED = "pixels.u8", "index.jsonl", "index.unfinished.jsonl"
FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}

Entry = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """How cached images were made: shorter side to `size` pixels with PIL's antialiased filter; 0 for whole ones."""

    size: int = 0
    filter: str = "bicubic"
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise unknown("filter", self.filter, FILTERS)

    def __str__(self) -> str:
        return f"shorter side {self.size}, {self.filter}" if self.size else "whole"

    def __call__(self, image: Image.Image) -> Image.Image:
        return v2.functional.resize(image, [self.size], interpolation=FILTERS[self.filter]) if self.size else image


def build_cache(
    images: Images, folder: str | Path, size: int = 0, *, filter: str = "bicubic", progress: bool = False
) -> CachedImages:
    """Decode every image of all lists into `folder`, shorter side `size` (0: as large as they are), and open it.

    Images that are there already and whose files have not changed are kept. An image that cannot be read is
    remembered with its sentence. InputError where `folder` holds something else or another kind of cache, where
    another process builds it, or where it cannot be written.
    """
    folder, kind = Path(folder), Kind(size, filter)
    if images.root is None:
        raise InputError("these images are in memory already: a cache of them would bring nothing")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"image cache {folder} is being built by another process"):
            _write(images, folder, kind, progress)
    except OSError as error:
        raise InputError(f"image cache {folder} cannot be written: {error.strerror}") from None
    return CachedImages(str(folder))


def _write(images: Images, folder: Path, kind: Kind, progress: bool) -> None:
    paths = list(dict.fromkeys(path for path, _, _ in _items(images)))
    stamps = {path: images.stamp(path) for path in paths}
    earlier = _earlier(folder, kind)
    end = max((_end(entry) for entry in earlier.values()), default=0)
    known = {path: entry for path, entry in earlier.items() if stamps.get(path) == entry["stamp"]}
    lines = [json.dumps(line) + "\n" for line in ({"kind": vars(kind)}, *known.values())]
    (folder / f"{UNFINISHED}.new").write_text("".join(lines), encoding="ascii")
    os.replace(folder / f"{UNFINISHED}.new", folder / UNFINISHED)
    with _appending(folder / PIXELS, end) as pixels, (folder / UNFINISHED).open("a", encoding="ascii") as index:
        todo = [path for path in paths if path not in known]
        for path in track(todo, "decoding images", transient=True, disable=not progress):
            entry, data = _decode(images, path, kind)
            pixels.write(data)
            pixels.flush()
            index.write(json.dumps({"path": path, "stamp": stamps[path], "at": end, **entry}) + "\n")
            index.flush()
            end += len(data)
        os.fsync(pixels.fileno())
        os.fsync(index.fileno())
    os.replace(folder / UNFINISHED, folder / INDEX)


def _items(images: Images) -> Iterator[Item]:
    for items in (images.train, images.val, images.test, images.unlabelled):
        yield from items


def _decode(images: Images, path: str, kind: Kind) -> tuple[Entry, bytes]:
    try:
        image = kind(images.open(path))
    except BadImage as error:
        return {"bad": str(error)}, b""
    return {"height": image.height, "width": image.width}, image.tobytes()


@contextmanager
def _appending(file: Path, end: int) -> Iterator[IO[bytes]]:
    """The file, cut to `end` bytes, for writing there."""
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.truncate(end)
        opened.seek(end)
        yield opened


def _earlier(folder: Path, kind: Kind) -> dict[str, Entry]:
    """The whole entries of earlier builds, finished or not."""
    found = [folder / name for name in (INDEX, UNFINISHED) if (folder / name).is_file()]
    if not found and (folder / PIXELS).exists():
        raise InputError(f"image cache {folder} has lost its index: delete {folder / PIXELS} and build it again")
    held = (folder / PIXELS).stat().st_size if (folder / PIXELS).is_file() else 0
    earlier: dict[str, Entry] = {}
    for file in found:
        made, entries = _read_index(file)
        if made != kind:
            raise InputError(f"image cache {folder} holds images {made}, not {kind}: take another folder")
        earlier |= {path: entry for path, entry in entries.items() if _end(entry) <= held}
    return earlier


def _end(entry: Entry) -> int:
    return entry["at"] + 3 * entry.get("height", 0) * entry.get("width", 0)


def _read_index(file: Path) -> tuple[Kind, dict[str, Entry]]:
    """How images were made, and path -> entry. A last line that was cut short is left out."""
    try:
        first, *rest = file.read_text(encoding="ascii").split("\n")
        kind = Kind(**json.loads(first)["kind"])
        entries = [json.loads(line) for line in rest[:-1]]
    except OSError as error:
        raise InputError(f"image cache {file.parent} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"image cache {file.parent} is damaged: delete the folder and build it again") from None
    return kind, {entry["path"]: entry for entry in entries}


@dataclass(frozen=True)
class CachedImages:
    """A finished cache. It is opened by each process for itself, when the first image is asked for.

    `open(path)` gives the RGB image as it was decoded, whole or with its shorter side made smaller.
    """

    folder: str

    def __getstate__(self) -> dict[str, str]:
        return {"folder": self.folder}

    @cached_property
    def _index(self) -> tuple[Kind, dict[str, Entry]]:
        file = Path(self.folder, INDEX)
        if not file.is_file():
            state = "is not finished" if file.with_name(UNFINISHED).is_file() else "does not exist"
            raise InputError(f"image cache {self.folder} {state}: make it by `python tools/data.py cache`")
        kind, entries = _read_index(file)
        held = os.path.getsize(file.with_name(PIXELS)) if file.with_name(PIXELS).is_file() else 0
        if held < max((_end(entry) for entry in entries.values()), default=0):
            raise InputError(f"image cache {self.folder} has lost pixels: delete the folder and build it again")
        return kind, entries

    @cached_property
    def _pixels(self) -> np.ndarray:
        file = Path(self.folder, PIXELS)
        return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)

    @property
    def kind(self) -> Kind:
        """How the images were made."""
        return self._index[0]

    def __len__(self) -> int:
        return len(self._index[1])

    def open(self, path: str) -> Image.Image:
        """The image that was at `path`. BadImage if it could not be read, InputError if it is not in the cache."""
        entry = self._index[1].get(path)
        if entry is None:
            raise InputError(f"image {path} is not in the image cache {self.folder}: build it again")
        if "bad" in entry:
            raise BadImage(entry["bad"])
        shape = entry["height"], entry["width"], 3
        return Image.fromarray(self._pixels[entry["at"] : _end(entry)].reshape(shape))

    def serve(self, images: Images) -> Images:
        """The same lists, opened from here. InputError if a listed image is missing here or its file has changed."""
        entries = self._index[1]
        listed = {path for path, _, _ in _items(images)}
        stale = sorted(p for p in listed if p not in entries or entries[p]["stamp"] != images.stamp(p))
        if stale:
            raise InputError(
                f"image cache {self.folder} lacks {len(stale)} of the {len(listed)} images or holds older ones, "
                f"such as {stale[0]}: build it again by `python tools/data.py cache`"
            )
        return replace(images, open=self.open, made=f"cache of images, {self.kind}")
