"""Decoding one file of any kind as an RGB image."""

from __future__ import annotations

import logging
import os
import struct
import warnings
import zlib
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from promptvision.errors import InputError, shown

LOG = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""How the names of images end, in upper or lower case, where images are searched for."""
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What PIL raises for a file that is not a whole image."""


class BadImage(InputError):
    """An image that is missing, not whole, too large, or none at all: the sentence names it and says why.

    INPUT.ON_BAD_IMAGE decides whether it stops the run or is left out.
    """


def open_image(root: str, path: str) -> Image.Image:
    """The image `root/path` as RGB, see `read_image`. BadImage names a file that cannot be read."""
    file = os.path.join(root, path)
    return read_image(file, file)


def read_image(source: str | bytes, name: str) -> Image.Image:
    """An image, from a file or its bytes, as RGB: `convert("RGB")` as CoOp's code reads it (Dassl `read_image`).

    So the first frame of an animation, colours of a palette, three equal channels of grey; alpha is dropped, not
    composited, and an EXIF orientation is not applied (INPUT.EXIF does it). Other than the official code, which shows
    16-bit grey as almost all white, its upper 8 bits are taken. docs/images.md has the whole table.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, transparency and size, without the file's name
            with Image.open(source if isinstance(source, str) else BytesIO(source)) as image:
                _tell_large(name, image.width, image.height)
                return as_rgb(image)
    except BROKEN as error:
        raise BadImage(f"image {shown(name)} cannot be read: {_reason(source, error)}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """`convert("RGB")`, but 16-bit grey keeps its upper 8 bits (`convert` would cut everything above 255)."""
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits in the 32 of an older Pillow, and of PGM
    if not wide and not image.mode.startswith("I;16"):
        return image.convert("RGB")
    upper = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    upper.info.update(image.info)
    return upper.convert("RGB")


@lru_cache(maxsize=4096)
def _tell_large(name: str, width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        LOG.warning("image %s is very large: %d x %d pixels", shown(name), width, height)


def _reason(source: str | bytes, error: BaseException) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return str(error)
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if getattr(error, "strerror", None):
        return str(error.strerror)  # type: ignore[attr-defined]
    start = _start(source)
    if not start:
        return "it is no image, the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is no image but a pointer of Git LFS: run `git lfs pull`"
    return "it is no image, broken or cut short"


def _start(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with open(source, "rb") as file:
        return file.read(64)
