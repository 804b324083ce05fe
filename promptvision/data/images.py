"""What every reader returns: three lists of labelled images and a way to open one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from promptvision.errors import InputError

Item = tuple[str, int, str]
"""(path, label, class name). The path is whatever `Images.open` understands: a file, or a key in memory."""


@dataclass(frozen=True)
class Images:
    """A data set: lists in the order of its split file, and `open(path)` to an RGB PIL image.

    `root`: the folder that the paths lie below, where images are files; None where they are in memory.
    `unlabelled`: target images of a domain adaptation, whose labels no method is given.
    `file_of`: path -> the file below `root` that holds the image, where files hold many.
    `made`: what `open` gives if that is not the image of the file, such as a smaller copy.
    """

    train: list[Item]
    val: list[Item]
    test: list[Item]
    open: Callable[[str], Image.Image]
    root: str | None = None
    unlabelled: list[Item] = field(default_factory=list)
    file_of: Callable[[str], str] | None = None
    made: str = ""

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their labels, over the three labelled lists."""
        names = {label: name for items in (self.train, self.val, self.test) for _, label, name in items}
        return [names[label] for label in sorted(names)]

    def fingerprint(self, items: Sequence[Item]) -> str:
        """SHA-256 of what the images of a list are, in its order: of files the place, size and times of change,
        of images in memory the pixels."""
        digest = hashlib.sha256(self.made.encode())
        for path, _, _ in items:
            digest.update(f"{path}\0".encode("utf-8", "surrogateescape"))
            digest.update(self._pixels(path) if self.root is None else _state(self._file(self.root, path)))
        return digest.hexdigest()

    def stamp(self, path: str) -> str:
        """Size and time of change of the file that holds an image; empty if there is none."""
        if self.root is not None:
            with suppress(OSError, ValueError):
                found = os.stat(self._file(self.root, path))
                return f"{found.st_size} {found.st_mtime_ns}"
        return ""

    def _file(self, root: str, path: str) -> str:
        return os.path.join(root, self.file_of(path) if self.file_of else path)

    def _pixels(self, path: str) -> bytes:
        image = self.open(path)
        return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()


def join(parts: Sequence[Images]) -> Images:
    """Data sets of one class list put together, such as the domains of one; no path may stand for two images."""
    lists = (
        [item for part in parts for item in getattr(part, name)] for name in ("train", "val", "test", "unlabelled")
    )
    train, val, test, unlabelled = lists
    names: dict[int, str] = {}
    for path, label, name in (*train, *val, *test):
        if names.setdefault(label, name) != name:
            raise InputError(f"domains disagree: label {label} is {names[label]!r} and, at {path}, {name!r}")
    roots = {part.root for part in parts}
    return Images(train, val, test, Openers(parts), roots.pop() if len(roots) == 1 else None, unlabelled)


class Openers:
    """Opens an image by the data set that lists its path."""

    def __init__(self, parts: Sequence[Images]):
        lists = [(part, [*part.train, *part.val, *part.test, *part.unlabelled]) for part in parts]
        self.by_path = {path: part.open for part, items in lists for path, _, _ in items}

    def __call__(self, path: str) -> Image.Image:
        return self.by_path[path](path)


def _state(file: str) -> bytes:
    """Where a file is and when it was changed last; one that is not there has no times."""
    times: tuple[int, ...] = ()
    with suppress(OSError, ValueError):
        found = os.stat(file)
        times = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return f"{os.path.abspath(file)}\0{times}\0".encode("utf-8", "surrogateescape")
