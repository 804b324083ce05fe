"""Lists of labelled images, and how to open one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from promptvision.atomic import file_hash
from promptvision.errors import InputError

Item = tuple[str, int, str]
"""(path, label, class name). The path is whatever `Images.open` understands: a file, or a key in memory."""
LISTS = ("train", "val", "test", "unlabelled")
"""The lists of a dataset, attributes of `Images`."""


@dataclass(frozen=True)
class Images:
    """A dataset: lists in the order of its split file, and `open(path)`, which returns an RGB PIL image.

    `root`: the folder that paths are relative to, if images are files; None if they are in memory.
    `unlabelled`: target images of a domain adaptation, whose labels no method sees.
    `file_of`: path -> the file below `root` that holds the image, if a file holds several.
    `made`: description of the images that `open` returns if they are not those of the files, such as smaller copies.
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

    @property
    def paths(self) -> list[str]:
        """Paths of all four lists in order, each once."""
        return list(dict.fromkeys(path for name in LISTS for path, _, _ in getattr(self, name)))

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each list."""
        return {name: len(getattr(self, name)) for name in LISTS}

    def fingerprint(self, items: Sequence[Item], pixels: dict[str, bytes] | None = None) -> str:
        """Return the SHA-256 of a list of images, in its order.

        It covers the paths, and of a file its place, size, times and inode, of an image in memory its pixels, whose
        hashes are kept in `pixels` and taken from there.
        """
        known = {} if pixels is None else pixels
        digest = hashlib.sha256(self.made.encode())
        for path, _, _ in items:
            file, times = self._state(path)
            place = f"{os.path.abspath(file)}\0{times}\0" if file else ""
            digest.update(f"{path}\0{place}".encode("utf-8", "surrogateescape"))
            if not file and path not in known:
                known[path] = pixel_hash(self.open(path))
            digest.update(b"" if file else known[path])
        return digest.hexdigest()

    def stamp(self, path: str) -> str:
        """Return size, times and inode of the file that holds an image; "" if there is none."""
        return " ".join(map(str, self._state(path)[1]))

    def contents(self, path: str) -> str:
        """Return the SHA-256 of the file that holds an image, "" if it cannot be read."""
        return file_hash(self._state(path)[0])

    def _state(self, path: str) -> tuple[str, tuple[int, ...]]:
        """Return the file that holds an image, "" for one in memory, and its size, times and inode, if it exists."""
        if self.root is None:
            return "", ()
        file = os.path.join(self.root, self.file_of(path) if self.file_of else path)
        try:
            found = os.stat(file)
        except (OSError, ValueError):
            return file, ()
        return file, (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def pixel_hash(image: Image.Image) -> bytes:
    """Return the SHA-256 of mode, size and pixels: the same for copies, whatever their names and metadata are."""
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()


def join(parts: Sequence[Images]) -> Images:
    """Return several datasets of the same classes as one, such as the domains of a card.

    Their paths must differ; InputError if they disagree about a class name.
    """
    train, val, test, unlabelled = ([item for part in parts for item in getattr(part, name)] for name in LISTS)
    names: dict[int, str] = {}
    for path, label, name in (*train, *val, *test):
        if names.setdefault(label, name) != name:
            raise InputError(f"domains disagree: label {label} is {names[label]!r} and, at {path}, {name!r}")
    roots = {part.root for part in parts}
    opener = Openers({path: part.open for part in parts for path in part.paths})
    return Images(train, val, test, opener, roots.pop() if len(roots) == 1 else None, unlabelled)


@dataclass(frozen=True, eq=False)
class Openers:
    """Opens each image with the function of the dataset that lists its path."""

    by_path: dict[str, Callable[[str], Image.Image]]

    def __call__(self, path: str) -> Image.Image:
        return self.by_path[path](path)
