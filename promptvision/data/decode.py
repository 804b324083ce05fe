"""Decodes one image file of any format to RGB."""

from __future__ import annotations

import logging
import os
import re
import warnings
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO

import numpy as np
from PIL import Image, PngImagePlugin

from promptvision.atomic import DAMAGE, refuse_special
from promptvision.errors import InputError, shown

LOG = logging.getLogger(__name__)
HEIF = (".heic", ".heif", ".hif") if find_spec("pillow_heif") else ()
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".tga"),
    *(".pcx", ".psd", ".qoi", ".sgi", ".rgb", ".ico", ".dds", *HEIF),
)
"""Endings of the image files that Pillow reads, in upper or lower case, for readers that search folders."""
ADDRESS = "it is an address: download the image, and name the file"
MOST_ASPECT = 1000
"""Times that an image may be longer than wide."""
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
# Image generators write megabytes of text beside the pixels; Pillow's limit for all of it together stays.
STARTS = {
    rb"ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)": "HEIC, as phones save it, which is read after "
    "`pip install pillow-heif`; or convert it to JPEG",
    rb"ftyp(avif|avis)": "AVIF, which this version of Pillow cannot read: update Pillow or convert it to JPEG",
    rb"ftyp": "a video: extract its frames as images",
    rb"^(\xff\x0a|\x00\x00\x00\x0cJXL )": "JPEG XL, which Pillow cannot read: convert it to JPEG or PNG",
    rb"^%(PDF|!PS)": "a PDF or PostScript: convert its pages to images",
    rb"(?i)^\s*(<\?xml|<svg|<!doctype svg)": "SVG or other XML, not pixels: convert it to PNG",
    rb"(?i)^\s*<(!doctype )?html": "it is no image but a web page: download the image itself",
    rb"^version https://git-lfs": "it is no image but a pointer of Git LFS: run `git lfs pull`",
}
"""Pattern in the first bytes of a file -> what it is, and what to do."""


class BadImage(InputError):
    """An image that is missing, incomplete, too large or no image; the sentence names it and says why.

    INPUT.ON_BAD_IMAGE decides whether it stops the run or is left out.
    """


def is_address(name: str) -> bool:
    """Return whether a name is that of something on the web: `https://...`."""
    return re.match(r"[a-z][a-z0-9+.-]+:/{1,2}[^/]", name, re.IGNORECASE) is not None


def open_image(root: str, path: str) -> Image.Image:
    """Return the image `root/path` as RGB, see `read_image`; BadImage if it cannot be read."""
    file = os.path.join(root, path)
    return read_image(file, file)


def read_image(source: str | bytes, name: str) -> Image.Image:
    """Return an image, given as a file or its bytes, as RGB: `convert("RGB")`, as in CoOp's code (Dassl `read_image`).

    That is the first frame of an animation, the colours of a palette, three equal channels of grey; alpha is dropped,
    not composited, and an EXIF orientation is not applied (INPUT.EXIF does it). Unlike the official code, which turns
    16-bit grey almost all white, it keeps the upper 8 bits. docs/images.md has the whole table.
    """
    try:
        if isinstance(source, str):
            refuse_special(source, f"image {shown(name)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, transparency and size, without the file's name
            with Image.open(source if isinstance(source, str) else BytesIO(source), formats=_formats()) as image:
                return checked_rgb(image, name)
    except InputError as error:
        raise BadImage(str(error)) from None
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise BadImage(f"image {shown(name)} cannot be read: {_reason(source, error)}") from None


def checked_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return `as_rgb`; BadImage, which calls the image `name`, if it has no pixels or is a strip."""
    if not image.width or not image.height:
        raise BadImage(f"image {shown(name)} has no pixels: {image.width} x {image.height}")
    _check_sides(name, image.width, image.height)
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Return `convert("RGB")`, except that 16-bit grey keeps its upper 8 bits (`convert` would clip at 255)."""
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits in the 32 of an older Pillow, and of PGM
    if not wide and not image.mode.startswith("I;16"):
        return image.convert("RGB")
    upper = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    upper.info.update(image.info)
    return upper.convert("RGB")


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """Return the formats that Pillow reads, except EPS: Ghostscript would run the program in it."""
    Image.preinit()
    Image.init()
    if HEIF:
        from pillow_heif import register_heif_opener  # a plugin that the user may have installed

        register_heif_opener()
    return [name for name in Image.ID if name != "EPS"]


@lru_cache(maxsize=4096)
def _check_sides(name: str, width: int, height: int) -> None:
    """Raise BadImage for a strip, of which resizing would make a huge image; warn once of very many pixels."""
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise BadImage(f"image {shown(name)} cannot be read: a strip of {width} x {height} pixels; cut it into pieces")
    limit = Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        LOG.warning("image %s is very large: %d x %d pixels", shown(name), width, height)


def _reason(source: str | bytes, error: BaseException) -> str:
    """Return why an image cannot be read, by PIL's error or the first bytes of the file."""
    if isinstance(error, Image.DecompressionBombError):
        return str(error)
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; {ADDRESS}" if isinstance(source, str) and is_address(source) else error.strerror
    if isinstance(source, str) and "\0" in source:
        return "its name has a NUL character, which no file has"
    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        start = file.read(256)
    if not start:
        return "it is no image, the file is empty"
    if "text" in str(error).lower() and start.startswith(b"\x89PNG"):
        return "the text stored in this PNG is larger than Pillow allows: save the image without it"
    for pattern, kind in STARTS.items():
        if re.search(pattern, start[:64]):
            return kind if kind.startswith("it is") else f"it is {kind}"
    return "it is no image, broken or cut short"
