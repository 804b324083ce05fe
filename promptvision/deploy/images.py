"""Images as programs hold them: files, PIL images, arrays and tensors, one or many, as RGB images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from promptvision.atomic import DAMAGE
from promptvision.data.decode import BadImage, checked_rgb, open_image
from promptvision.errors import InputError

KINDS = "a path, a PIL image, an array (H, W, 3) or (H, W) of uint8, or a tensor (3, H, W) of uint8 or of 0 to 1"


def listed(images: Any) -> tuple[list[Any], bool]:
    """Return the given images as a list, unchanged, and whether a single image was given; InputError for an empty list.

    A batch, an array (N, H, W, 3) or a tensor (N, 3, H, W), is a list of its images.
    """
    single = isinstance(images, str | os.PathLike | Image.Image)
    if isinstance(images, np.ndarray | Tensor):
        single = images.ndim != 4
    if not single and not isinstance(images, Iterable):
        raise InputError(f"an image is {KINDS}, not {_article(type(images).__name__)}")
    found = [images] if single else list(images)
    if not found:
        raise InputError("no images: the list is empty")
    return found, single


def opened(image: Any, name: str) -> Image.Image:
    """Return one image as RGB, as training opens files; BadImage, with its name, for anything else."""
    if isinstance(image, str | os.PathLike):
        return open_image("", str(Path(image)) if isinstance(image, os.PathLike) else image)
    if isinstance(image, Tensor):
        return _of_array(_pixels(image, name), name)
    if isinstance(image, np.ndarray):
        return _of_array(image, name)
    if not isinstance(image, Image.Image):
        raise BadImage(f"{name} is {_article(type(image).__name__)}; an image is {KINDS}")
    try:
        return checked_rgb(image, name.removeprefix("image "))
    except BadImage:
        raise
    except DAMAGE as error:  # a file that was opened and not read
        raise BadImage(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _pixels(image: Tensor, name: str) -> np.ndarray[Any, Any]:
    """Return a tensor (3, H, W) as an array (H, W, 3) of uint8; numbers from 0 to 1 are rounded to 256 levels."""
    if image.ndim != 3 or image.shape[0] != 3:
        hint = "; put the channels first: image.permute(2, 0, 1)" if image.shape[-1:] == (3,) else ""
        raise BadImage(f"{name} is a tensor of shape {tuple(image.shape)}; it must be (3, H, W){hint}")
    if image.is_floating_point():
        image = image.detach().float()
        if not image.isfinite().all():
            raise BadImage(f"{name} holds NaN or infinite numbers")
        if image.numel() and (image.min() < 0 or image.max() > 1):
            span = f"from {image.min():.4g} to {image.max():.4g}"
            raise BadImage(f"{name} has values {span}; they must be from 0 to 1, before any normalisation")
        image = image.mul(255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise BadImage(f"{name} is a tensor of {image.dtype}; it must be uint8, or floats from 0 to 1")
    return image.permute(1, 2, 0).cpu().numpy()


def _of_array(image: np.ndarray[Any, Any], name: str) -> Image.Image:
    """Return an array (H, W, 3) or (H, W) of uint8 as an image."""
    if image.dtype != np.uint8:
        raise BadImage(f"{name} is an array of {image.dtype}; it must be uint8, from 0 to 255")
    if image.ndim != 2 and image.shape[2:] != (3,):
        hint = "; put the channels last: image.transpose(1, 2, 0)" if image.shape[:1] == (3,) else ""
        raise BadImage(f"{name} is an array of shape {image.shape}; it must be (H, W, 3) or (H, W){hint}")
    if not image.size:
        raise BadImage(f"{name} has no pixels: {image.shape[1]} x {image.shape[0]}")
    return checked_rgb(Image.fromarray(np.ascontiguousarray(image)), name.removeprefix("image "))


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
