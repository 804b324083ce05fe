"""Images decoded once, whole or with a smaller shorter side, in a folder that is mapped into memory.

The folder holds `pixels.u8`, the RGB bytes of all images one after another, and `index.jsonl`: one line that says how
they were made, then one line per image: path, stamp and SHA-256 of its file, first byte, height, width and checksum of
its pixels; or why it cannot be read. A build that was interrupted resumes; an image whose file has changed is decoded
again. The stamp alone cannot tell a copy of the data set from another one, so files of another stamp are compared by
contents.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from promptvision.atomic import locked, parse_json, read_bytes, write_atomically
from promptvision.data.decode import BadImage
from promptvision.data.images import Images
from promptvision.data.scan import Progress, scan
from promptvision.errors import InputError, as_called, counted, unknown

LOG = logging.getLogger(__name__)
FORMAT = 2
"""Format of the index, which has checksums since 2."""
PIXELS, INDEX, UNFINISHED = "pixels.u8", "index.jsonl", "index.unfinished.jsonl"
FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}

Entry = dict[str, Any]
"""A line of the index."""


@dataclass(frozen=True)
class Kind:
    """Recipe of cached images: shorter side of `size` pixels, by PIL's antialiased filter; 0 for whole images."""

    size: int = 0
    filter: str = "bicubic"
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise unknown("filter", self.filter, FILTERS)

    def __str__(self) -> str:
        return f"shorter side {self.size}, {self.filter}" if self.size else "whole"

    def __call__(self, image: Image.Image) -> tuple[int, int, bytes]:
        """Return height, width and RGB bytes of the image to keep."""
        if self.size:
            image = v2.functional.resize(image, [self.size], interpolation=FILTERS[self.filter])
        return image.height, image.width, image.tobytes()


def build_cache(
    images: Images,
    folder: str | Path,
    size: int = 0,
    *,
    filter: str = "bicubic",
    jobs: int = 1,
    progress: Progress = lambda seen, total: seen,
) -> CachedImages:
    """Decode every image of all lists into `folder` by `jobs` processes, and open the cache.

    `size`: of the shorter side; 0 keeps images as large as they are. Cached images whose files have not changed are
    kept. For an image that cannot be read the cache holds the reason. InputError if `folder` holds something else or
    another kind of cache, if another process builds it, or if it cannot be written.
    """
    folder, kind = Path(folder), Kind(size, filter)
    if images.root is None:
        raise InputError("these images are in memory already: a cache would not help")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"image cache {folder} is being built by another process"):
            _write(images, folder, kind, jobs, progress)
    except OSError as error:
        raise InputError(f"image cache {folder} cannot be written: {error.strerror}") from None
    return CachedImages(str(folder))


def _write(images: Images, folder: Path, kind: Kind, jobs: int, progress: Progress) -> None:
    """Append the images that are missing; the index gets its final name when it is complete."""
    stamps = {path: images.stamp(path) for path in images.paths}
    earlier = _earlier(folder, kind)
    end = max(map(_end, earlier.values()), default=0)
    contents = _contents_of(images)
    known = {
        path: {**earlier[path], "stamp": stamp}
        for path, stamp in stamps.items()
        if path in earlier and _is_current(earlier[path], path, stamp, contents)
    }
    lines = [json.dumps(line) + "\n" for line in ({"kind": vars(kind)}, *known.values())]
    write_atomically(folder / UNFINISHED, "".join(lines).encode())
    todo = [path for path in stamps if path not in known]
    decoded = progress(scan(images, todo, kind, jobs), len(todo))
    (folder / PIXELS).touch()
    with (folder / PIXELS).open("r+b") as pixels, (folder / UNFINISHED).open("a", encoding="ascii") as index:
        pixels.truncate(end)
        pixels.seek(end)
        for seen in decoded:
            height, width, data = seen.result or (0, 0, b"")
            pixels.write(data)
            pixels.flush()
            found = {"bad": seen.fault} if seen.fault else {"height": height, "width": width, "crc": zlib.crc32(data)}
            own = {"path": seen.path, "stamp": stamps[seen.path], "sha256": contents(seen.path), "at": end}
            index.write(json.dumps({**own, **found}) + "\n")
            index.flush()
            end += len(data)
        os.fsync(pixels.fileno())
        os.fsync(index.fileno())
    os.replace(folder / UNFINISHED, folder / INDEX)


def _earlier(folder: Path, kind: Kind) -> dict[str, Entry]:
    """Return the complete entries of earlier builds, finished or not, by path."""
    found = [folder / name for name in (INDEX, UNFINISHED) if (folder / name).is_file()]
    if not found and (folder / PIXELS).exists():
        raise InputError(f"image cache {folder} has lost its index: delete {folder / PIXELS} and build it again")
    held = (folder / PIXELS).stat().st_size if (folder / PIXELS).is_file() else 0
    earlier: dict[str, Entry] = {}
    for file in found:
        made, entries = _read_index(file)
        if made.format != FORMAT:
            raise InputError(f"image cache {folder} is of an older version: delete the folder and build it again")
        if made != kind:
            raise InputError(f"image cache {folder} holds images {made}, not {kind}: use another folder")
        earlier |= {path: entry for path, entry in entries.items() if _end(entry) <= held}
    return earlier


def _contents_of(images: Images) -> Callable[[str], str]:
    """Return `images.contents`, which reads a shard once for all images that follow one another in it."""
    if images.file_of is None:
        return images.contents
    file_of, of_file = images.file_of, lru_cache(maxsize=4)(replace(images, file_of=None).contents)
    return lambda path: of_file(file_of(path))


def _is_current(entry: Entry, path: str, stamp: str, contents: Callable[[str], str]) -> bool:
    """Return whether a cached image is that of the file: by its stamp, else by size and contents."""
    if entry["stamp"] == stamp:
        return True
    same_size = bool(stamp) and entry["stamp"].split(" ")[0] == stamp.split(" ")[0]
    return same_size and bool(entry["sha256"]) and entry["sha256"] == contents(path)


def _end(entry: Entry) -> int:
    """Return the first byte after an image."""
    return entry["at"] + 3 * entry.get("height", 0) * entry.get("width", 0)


def _read_index(file: Path) -> tuple[Kind, dict[str, Entry]]:
    """Return how images were made, and their entries by path, without a last line that was cut short."""
    damaged = f"image cache {file.parent} is damaged: delete the folder and build it again"
    try:
        first, *rest = read_bytes(file, "index of the image cache").decode("ascii").split("\n")
        kind = Kind(**parse_json(first, damaged)["kind"])
        entries = {entry["path"]: entry for entry in (parse_json(line, damaged) for line in rest[:-1])}
        sound = all(map(_is_sound, entries.values())) and type(kind.size) is int
    except (UnicodeDecodeError, KeyError, TypeError):
        raise InputError(damaged) from None
    if kind.format == FORMAT and not sound:
        raise InputError(damaged)
    return kind, entries


def _is_sound(entry: Entry) -> bool:
    """Return whether an entry has all keys, in their types, and no number below 0."""
    numbers = [entry.get(key) for key in ("at", *(() if "bad" in entry else ("height", "width", "crc")))]
    texts = [entry.get(key) for key in ("path", "stamp", "sha256", *(("bad",) if "bad" in entry else ()))]
    return all(type(n) is int and n >= 0 for n in numbers) and all(isinstance(text, str) for text in texts)


@dataclass(frozen=True)
class CachedImages:
    """A finished cache, whose files each process opens for itself when the first image is read."""

    folder: str

    def __getstate__(self) -> dict[str, str]:
        return {"folder": self.folder}

    @cached_property
    def _index(self) -> tuple[Kind, dict[str, Entry]]:
        file = Path(self.folder, INDEX)
        if not file.is_file():
            state = "is not finished" if file.with_name(UNFINISHED).is_file() else "does not exist"
            command = as_called("python tools/data.py cache")
            raise InputError(f"image cache {self.folder} {state}: make it by `{command}`")
        kind, entries = _read_index(file)
        if kind.format != FORMAT:
            raise InputError(f"image cache {self.folder} is of an older version: delete the folder and build it again")
        held = os.path.getsize(file.with_name(PIXELS)) if file.with_name(PIXELS).is_file() else 0
        if held < max(map(_end, entries.values()), default=0):
            raise InputError(f"image cache {self.folder} has lost pixels: delete the folder and build it again")
        return kind, entries

    @cached_property
    def _pixels(self) -> np.ndarray:
        file = Path(self.folder, PIXELS)
        return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)

    @cached_property
    def _verified(self) -> set[str]:
        return set()

    @property
    def kind(self) -> Kind:
        """Recipe of the images."""
        return self._index[0]

    def __len__(self) -> int:
        return len(self._index[1])

    def open(self, path: str) -> Image.Image:
        """Return the RGB image as it was decoded, perhaps smaller; its checksum is verified when it is first read.

        BadImage if it could not be read, InputError if it is not in the cache or its pixels are damaged.
        """
        entry = self._index[1].get(path)
        if entry is None:
            raise InputError(f"image {path} is not in the image cache {self.folder}: build it again")
        if "bad" in entry:
            raise BadImage(entry["bad"])
        shape = entry["height"], entry["width"], 3
        pixels = self._pixels[entry["at"] : _end(entry)]
        if path not in self._verified:
            if zlib.crc32(pixels.data) != entry["crc"]:
                raise InputError(
                    f"image cache {self.folder} has damaged pixels of {path}: delete the folder and build it again"
                )
            self._verified.add(path)
        return Image.fromarray(pixels.reshape(shape))

    def serve(self, images: Images) -> Images:
        """Return the same lists, opened from the cache; InputError if it lacks an image or its file has changed."""
        entries, listed = self._index[1], images.paths
        stamps, contents = {path: images.stamp(path) for path in listed}, _contents_of(images)
        stale = sorted(p for p in listed if p not in entries or not _is_current(entries[p], p, stamps[p], contents))
        command = as_called("python tools/data.py cache")
        if stale:
            raise InputError(
                f"image cache {self.folder} lacks {len(stale)} of the {counted(len(listed), 'image')} or holds older "
                f"ones, such as {stale[0]}: build it again by `{command}`"
            )
        moved = sum(entries[path]["stamp"] != stamp for path, stamp in stamps.items())
        if moved:
            were = counted(moved, "file was", "files were")
            LOG.info("%s compared by contents; `%s` keeps the new stamps", were, command)
        return replace(images, open=self.open, made=f"cache of images, {self.kind}")
