"""Images decoded once, whole or with a smaller shorter side, in a folder that is mapped into memory.

The folder holds `pixels.u8`, the RGB bytes of all images one after another, and `index.jsonl`: one line that says how
they were made, then one line per image: path, stamp and SHA-256 of its file, first byte, height, width and checksum of
its pixels; or why it cannot be read. A build that was interrupted resumes; an image whose file has changed is decoded
again. The stamp alone cannot tell a copy of the dataset from another one, so files of another stamp are compared by
contents.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from promptvision.atomic import locked, write_atomically
from promptvision.data.decode import BadImage
from promptvision.data.image_index import AGAIN, Entry, Kind, read_index
from promptvision.data.images import Images
from promptvision.data.scan import Progress, scan
from promptvision.errors import InputError, as_called, counted

LOG = logging.getLogger(__name__)
PIXELS, INDEX, UNFINISHED = "pixels.u8", "index.jsonl", "index.unfinished.jsonl"


def build_cache(
    images: Images,
    folder: str | Path,
    size: int = 0,
    *,
    filter: str = "bicubic",
    resize: str = "pillow",
    jobs: int = 1,
    progress: Progress = lambda seen, total: seen,
) -> CachedImages:
    """Decode every image of all lists into `folder` by `jobs` processes, and open the cache.

    `size`: of the shorter side; 0 keeps images as large as they are. `filter`, `resize`: see `Kind`. Cached images
    whose files have not changed are kept. For an image that cannot be read the cache holds the reason. InputError if
    `folder` holds something else or another kind of cache, if another process builds it, or if it cannot be written.
    """
    folder, kind = Path(folder), Kind(size, filter, resize=resize)
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
    end = max((entry.end for entry in earlier.values()), default=0)
    contents = _contents_of(images)
    known = {p: stamp for p, stamp in stamps.items() if p in earlier and earlier[p].is_of(stamp, contents)}
    kept = [asdict(replace(earlier[path], stamp=stamp)) for path, stamp in known.items()]
    lines = [json.dumps(line) + "\n" for line in ({"kind": vars(kind)}, *kept)]
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
            facts = stamps[seen.path], contents(seen.path), end, height, width, zlib.crc32(data), seen.fault
            index.write(json.dumps(asdict(Entry(seen.path, *facts))) + "\n")
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
        made, entries = read_index(file)
        if made != kind:
            raise InputError(f"image cache {folder} holds images {made}, not {kind}: use another folder")
        earlier |= {path: entry for path, entry in entries.items() if entry.end <= held}
    return earlier


def _contents_of(images: Images) -> Callable[[str], str]:
    """Return `images.contents`, which reads a shard once for all images that follow one another in it."""
    if images.file_of is None:
        return images.contents
    file_of, of_file = images.file_of, lru_cache(maxsize=4)(replace(images, file_of=None).contents)
    return lambda path: of_file(file_of(path))


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
        kind, entries = read_index(file)
        held = os.path.getsize(file.with_name(PIXELS)) if file.with_name(PIXELS).is_file() else 0
        if held < max((entry.end for entry in entries.values()), default=0):
            raise InputError(f"image cache {self.folder} has lost pixels: {AGAIN}")
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
        if entry.bad:
            raise BadImage(entry.bad)
        pixels = self._pixels[entry.at : entry.end]
        if path not in self._verified:
            if zlib.crc32(pixels.data) != entry.crc:
                raise InputError(f"image cache {self.folder} has damaged pixels of {path}: {AGAIN}")
            self._verified.add(path)
        return Image.fromarray(pixels.reshape(entry.height, entry.width, 3))

    def serve(self, images: Images) -> Images:
        """Return the same lists, opened from the cache; InputError if it lacks an image or its file has changed."""
        entries, listed = self._index[1], images.paths
        stamps, contents = {path: images.stamp(path) for path in listed}, _contents_of(images)
        stale = sorted(
            path for path in listed if path not in entries or not entries[path].is_of(stamps[path], contents)
        )
        command = as_called("python tools/data.py cache")
        if stale:
            raise InputError(
                f"image cache {self.folder} lacks {len(stale)} of the {counted(len(listed), 'image')} or holds older "
                f"ones, such as {stale[0]}: build it again by `{command}`"
            )
        moved = sum(entries[path].stamp != stamp for path, stamp in stamps.items())
        if moved:
            were = counted(moved, "file was", "files were")
            LOG.info("%s compared by contents; `%s` keeps the new stamps", were, command)
        return replace(images, open=self.open, made=f"cache of images, {self.kind}")
