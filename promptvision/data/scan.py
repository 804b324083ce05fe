"""One pass over every image of a dataset: decode it once, and keep a result or the reason why it cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from PIL import Image

from promptvision.data.decode import BadImage
from promptvision.data.images import LISTS, Images
from promptvision.data.worker_restart import Workers
from promptvision.errors import briefly

LOG = logging.getLogger(__name__)
CHUNK = 8
"""Images that a process decodes in one go."""
_FAULTS: dict[tuple[str, str, str], str] = {}
"""(root, path, stamp of the file) -> the fault of an image that `leave_out_bad` has decoded, "" if there is none."""


@dataclass(frozen=True)
class Seen:
    """One decoded image: the `result` of what was asked, or in `fault` the reason why it cannot be read."""

    path: str
    result: Any = None
    fault: str = ""


@dataclass(frozen=True)
class _Decoding:
    paths: Sequence[str]
    open: Callable[[str], Image.Image]
    ask: Callable[[Image.Image], Any]

    def __getitems__(self, indices: Iterable[int]) -> list[Seen]:
        return [self._seen(self.paths[index]) for index in indices]

    def _seen(self, path: str) -> Seen:
        try:
            return Seen(path, self.ask(self.open(path)))
        except BadImage as error:
            return Seen(path, fault=str(error))


Progress = Callable[[Iterable[Seen], int], Iterable[Seen]]
"""Wraps the decoded images and takes their number, to show the progress."""


def scan(images: Images, paths: Sequence[str], ask: Callable[[Image.Image], Any], jobs: int = 1) -> Iterator[Seen]:
    """Yield `ask(image)` or the fault of each path, in order, decoded by `jobs` processes.

    Images in memory, and all images if there is one job, are decoded in this process.
    """
    workers = jobs if jobs > 1 and images.root is not None else 0
    size = CHUNK if workers else 1
    chunks = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]
    for chunk in Workers(_Decoding(paths, images.open, ask), workers).batches(chunks):
        yield from chunk


def leave_out_bad(images: Images, jobs: int = 1) -> tuple[Images, list[str]]:
    """Return the lists without the images that cannot be read, and one sentence for each of these.

    All images of all lists are decoded once, so that a run, its resumption and its evaluation leave out the same
    ones; a process decodes a file again only if it changed. Images in memory are whole. No other image replaces one
    that is left out: a class may have fewer images than shots, and the other picks stay as they are.
    """
    if images.root is None:
        return images, []
    keys = {path: (images.root, path, images.stamp(path)) for path in images.paths}
    for seen in scan(images, [path for path, key in keys.items() if key not in _FAULTS], attrgetter("size"), jobs):
        _FAULTS[keys[seen.path]] = seen.fault
    faults = {path: _FAULTS[key] for path, key in keys.items() if _FAULTS[key]}
    for fault in briefly(list(faults.values())):
        LOG.warning("left out: %s", fault)
    train, val, test, unlabelled = ([item for item in getattr(images, name) if item[0] not in faults] for name in LISTS)
    return replace(images, train=train, val=val, test=test, unlabelled=unlabelled), list(faults.values())
