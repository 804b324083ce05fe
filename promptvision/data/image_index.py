"""The index of an image cache: how its images were made, and a line for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from promptvision.atomic import read_bytes, refuse_damaged
from promptvision.data.transforms import RESIZES
from promptvision.errors import InputError, unknown

FORMAT = 2
"""Format of the index, which has checksums since 2."""
FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
AGAIN = "delete the folder and build it again"


@dataclass(frozen=True)
class Kind:
    """Recipe of cached images: shorter side of `size` pixels, by an antialiased filter; 0 for whole images.

    `resize`: one of `transforms.RESIZES`.
    """

    size: int = 0
    filter: str = "bicubic"
    format: int = FORMAT
    resize: str = "pillow"

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise unknown("filter", self.filter, FILTERS)
        if self.resize not in RESIZES:
            raise unknown("resize", self.resize, RESIZES)

    def __str__(self) -> str:
        by = ", tensor" if self.resize == "tensor" else ""
        return f"shorter side {self.size}, {self.filter}{by}" if self.size else "whole"

    def __call__(self, image: Image.Image) -> tuple[int, int, bytes]:
        """Return height, width and RGB bytes of the image to keep."""
        if self.size and self.resize == "tensor":
            pixels = v2.functional.resize(v2.functional.pil_to_tensor(image), [self.size], FILTERS[self.filter])
            return pixels.shape[1], pixels.shape[2], pixels.movedim(0, -1).numpy().tobytes()
        if self.size:
            image = v2.functional.resize(image, [self.size], interpolation=FILTERS[self.filter])
        return image.height, image.width, image.tobytes()


@dataclass(frozen=True)
class Entry:
    """A line of the index: where the pixels of an image begin, or in `bad` why it cannot be read."""

    path: str
    stamp: str
    sha256: str
    at: int
    height: int = 0
    width: int = 0
    crc: int = 0
    bad: str = ""

    def __post_init__(self) -> None:
        numbers, texts = (self.at, self.height, self.width, self.crc), (self.path, self.stamp, self.sha256, self.bad)
        if not all(type(n) is int and n >= 0 for n in numbers) or not all(isinstance(text, str) for text in texts):
            raise ValueError

    @property
    def end(self) -> int:
        """The first byte after the image."""
        return self.at + 3 * self.height * self.width

    def is_of(self, stamp: str, contents: Callable[[str], str]) -> bool:
        """Return whether the image is that of the file: by its stamp, else by size and contents."""
        if self.stamp == stamp:
            return True
        same_size = bool(stamp) and self.stamp.split(" ")[0] == stamp.split(" ")[0]
        return same_size and bool(self.sha256) and self.sha256 == contents(self.path)


def read_index(file: Path) -> tuple[Kind, dict[str, Entry]]:
    """Return how images were made, and their entries by path, without a last line that was cut short."""
    content = read_bytes(file, "index of the image cache")
    with refuse_damaged(f"image cache {file.parent} is damaged", AGAIN):
        first, *rest = content.decode("ascii").split("\n")
        kind = Kind(**json.loads(first)["kind"])
        if kind.format != FORMAT:
            raise InputError(f"image cache {file.parent} is of an older version: {AGAIN}")
        entries = [Entry(**json.loads(line)) for line in rest[:-1]]
        return kind, {entry.path: entry for entry in entries}
