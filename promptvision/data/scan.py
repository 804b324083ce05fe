"""Looking at every image of a data set once: is it whole, and is it the same as another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

from PIL import Image

from promptvision.errors import InputError

CHUNK = 16
"""Images that a process takes at a time."""

Open = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Seen:
    """What came of one image: the SHA-256 of its pixels, or why it cannot be read."""

    path: str
    digest: str = ""
    fault: str = ""


def look(open_image: Open, path: str) -> Seen:
    """Decode an image in full. Copies have one digest whatever their names, times and metadata are."""
    try:
        image = open_image(path)
    except InputError as error:
        return Seen(path, fault=str(error))
    form = f"{image.mode}{image.size}".encode()
    return Seen(path, hashlib.sha256(form + image.tobytes()).hexdigest())


def look_at_all(open_image: Open, paths: Sequence[str], jobs: int = 1) -> Iterator[Seen]:
    """Each image in turn, decoded by `jobs` processes. InputError if one of these is killed."""
    if jobs <= 1 or len(paths) <= CHUNK:
        return (look(open_image, path) for path in paths)
    pool = ProcessPoolExecutor(jobs)
    return _gather(pool, pool.map(partial(look, open_image), paths, chunksize=CHUNK), jobs)


def _gather(pool: ProcessPoolExecutor, seen: Iterator[Seen], jobs: int) -> Iterator[Seen]:
    try:
        yield from seen
    except BrokenProcessPool:
        raise InputError(f"one of {jobs} decoding processes was killed: memory may be short, try --jobs 1") from None
    finally:
        pool.shutdown(cancel_futures=True)
