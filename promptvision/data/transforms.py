"""Recipes of the official codes that turn an RGB PIL image into a normalised float32 tensor (3, H, W).

Every recipe has a training side and a test side. PIL resizes, with antialiased bicubic and bilinear filters; random
choices are drawn from torch's global generator. A side has two halves: the pixels, image by image, and the arithmetic
on them, which a loader does once per batch, with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, ToTensor, v2

from promptvision.errors import unknown

Step: TypeAlias = "nn.Module | ToTensor"
Size = tuple[int, int]
"""(height, width) in pixels."""
Recipe = Callable[[Size], list[Step]]

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


@dataclass(frozen=True, eq=False)
class Transform:
    """One side of a recipe, called with an RGB image: (3, H, W) float32, normalised."""

    steps: v2.Compose
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.finish(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return (3, H, W), uint8, or float32 from 0 to 1 if the recipe resizes floats; all random draws are here."""
        return self.steps(image)

    def finish(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (..., 3, H, W) as torchvision's ToTensor and Normalize do, bit for bit."""
        bytes_given = pixels.dtype == torch.uint8
        if bytes_given:
            pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return v2.functional.normalize(pixels, list(self.mean), list(self.std), inplace=bytes_given)


class Upright(nn.Module):
    """Rotation of an image by its EXIF orientation, which the official codes ignore."""

    def forward(self, image: Image.Image) -> Image.Image:
        return ImageOps.exif_transpose(image)


def coop_test(size: Size) -> list[Step]:
    """Resize the shorter side to the larger of `size`, bicubic, centre crop (Dassl `_build_transform_test`, CLIP)."""
    return [v2.Resize(max(size), interpolation=BICUBIC), v2.CenterCrop(size), v2.PILToTensor()]


def squash(size: Size) -> list[Step]:
    """Resize to `size` whatever the aspect, bilinear, not antialiased, on floats like `tf.image.resize`.

    The same in training (VPT `src/data/vtab_datasets`).
    """
    return [ToTensor(), v2.Resize(size, interpolation=BILINEAR, antialias=False)]


def enlarge(size: Size, interpolation: InterpolationMode) -> v2.Resize:
    """Resize the shorter side to 8/7 of the crop: 224 -> 256, 384 -> 438, 448 -> 512 (VPT, l2p-pytorch)."""
    return v2.Resize(max(size) * 8 // 7, interpolation=interpolation)


TRAIN: dict[str, Recipe] = {
    # random crop of 8 to 100 % of the area, flip half the time (CoOp `configs/trainers`, Dassl)
    "coop": lambda size: [
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BICUBIC),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    # resize, random crop, flip half the time (VPT `src/data/transforms.py`)
    "fgvc": lambda size: [
        enlarge(size, BILINEAR),
        v2.RandomCrop(size),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    "vtab": squash,
    # random crop of 5 to 100 % of the area, flip half the time (l2p-pytorch `datasets.py`)
    "l2p": lambda size: [
        v2.RandomResizedCrop(size, scale=(0.05, 1.0), interpolation=BILINEAR),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    "center": coop_test,
}
"""Recipe -> its training side. "center" is CoOp's test side, for classes that a crop or flip changes."""

TEST: dict[str, Recipe] = {
    "coop": coop_test,
    "fgvc": lambda size: [enlarge(size, BILINEAR), v2.CenterCrop(size), v2.PILToTensor()],
    "vtab": squash,
    "l2p": lambda size: [enlarge(size, BICUBIC), v2.CenterCrop(size), v2.PILToTensor()],
    "center": coop_test,
}
"""Recipe -> its test side, by the same codes."""

FIXED = ("vtab", "center")
"""Recipes that draw nothing in training: all views of an image are the same."""


def train_transform(
    name: str, size: int | Size, mean: Sequence[float], std: Sequence[float], *, upright: bool = False
) -> Transform:
    """Return the training side of a recipe: RGB image to (3, *size), normalised by channel `mean` and `std` (of 0..1).

    `upright`: first rotate images by their EXIF orientation.
    """
    return _build(TRAIN, name, size, mean, std, upright)


def test_transform(
    name: str, size: int | Size, mean: Sequence[float], std: Sequence[float], *, upright: bool = False
) -> Transform:
    """Return the test side of a recipe, with the arguments of `train_transform`."""
    return _build(TEST, name, size, mean, std, upright)


def _build(
    table: Mapping[str, Recipe],
    name: str,
    size: int | Size,
    mean: Sequence[float],
    std: Sequence[float],
    upright: bool,
) -> Transform:
    if name not in table:
        raise unknown("transform", name, table)
    rotate = [Upright()] if upright else []
    pair = (size, size) if isinstance(size, int) else (size[0], size[1])
    return Transform(v2.Compose([*rotate, *table[name](pair)]), tuple(mean), tuple(std))
