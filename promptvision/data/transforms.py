"""From an RGB PIL image to a normalised tensor (3, H, W), float32, by the official recipes.

Every recipe has a train and a test side. Resizing is PIL's, whose bicubic and bilinear filters are antialiased;
random choices are drawn from torch's global generator. A side has two halves: pixels, image by image, and the
arithmetic on them, which a loader does once for a batch, with the same bits.
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

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


@dataclass(frozen=True, eq=False)
class Transform:
    """One side of a recipe. Called with an RGB image it gives (3, H, W) float32, normalised."""

    steps: v2.Compose
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.finish(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, H, W), uint8; float32 from 0 to 1 if the recipe resizes floats. All chance is here."""
        return self.steps(image)

    def finish(self, pixels: Tensor) -> Tensor:
        """Pixels (..., 3, H, W) normalised, as torchvision's ToTensor and Normalize do it, bit for bit."""
        bytes_given = pixels.dtype == torch.uint8
        if bytes_given:
            pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return v2.functional.normalize(pixels, list(self.mean), list(self.std), inplace=bytes_given)


class Upright(nn.Module):
    """Turns an image as its EXIF orientation says; the official codes do not."""

    def forward(self, image: Image.Image) -> Image.Image:
        return ImageOps.exif_transpose(image)


def coop_train(size: Size) -> list[Step]:
    """Random crop of 8 to 100 % of the area, bicubic, flip half the time (CoOp `configs/trainers`, Dassl)."""
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BICUBIC)
    return [crop, v2.RandomHorizontalFlip(0.5), v2.PILToTensor()]


def coop_test(size: Size) -> list[Step]:
    """Shorter side to the larger of `size`, bicubic, centre crop (Dassl `_build_transform_test`, CLIP)."""
    return [v2.Resize(max(size), interpolation=BICUBIC), v2.CenterCrop(size), v2.PILToTensor()]


def _enlarged(size: Size) -> v2.Resize:
    """Shorter side to 8/7 of the crop, bilinear: 224 -> 256, 384 -> 438, 448 -> 512 (VPT)."""
    return v2.Resize(max(size) * 8 // 7, interpolation=BILINEAR)


def fgvc_train(size: Size) -> list[Step]:
    """Resize, random crop, flip half the time (VPT `src/data/transforms.py`)."""
    return [_enlarged(size), v2.RandomCrop(size), v2.RandomHorizontalFlip(0.5), v2.PILToTensor()]


def fgvc_test(size: Size) -> list[Step]:
    """Resize, centre crop (VPT `src/data/transforms.py`)."""
    return [_enlarged(size), v2.CenterCrop(size), v2.PILToTensor()]


def squash(size: Size) -> list[Step]:
    """Straight to `size`, whatever the aspect, in training too: bilinear, not antialiased, on floats as
    `tf.image.resize` does it (VPT `src/data/vtab_datasets`)."""
    return [ToTensor(), v2.Resize(size, interpolation=BILINEAR, antialias=False)]


def l2p_train(size: Size) -> list[Step]:
    """Random crop of 5 to 100 % of the area, bilinear, flip half the time (l2p-pytorch `datasets.py`)."""
    crop = v2.RandomResizedCrop(size, scale=(0.05, 1.0), interpolation=BILINEAR)
    return [crop, v2.RandomHorizontalFlip(0.5), v2.PILToTensor()]


def l2p_test(size: Size) -> list[Step]:
    """Shorter side to 8/7 of the crop, bicubic, centre crop (l2p-pytorch `datasets.py`)."""
    return [v2.Resize(max(size) * 8 // 7, interpolation=BICUBIC), v2.CenterCrop(size), v2.PILToTensor()]


TRAIN = {"coop": coop_train, "fgvc": fgvc_train, "vtab": squash, "l2p": l2p_train, "center": coop_test}
"""Recipe -> its train side. "center" is CoOp's test side in training too: for classes that a crop or flip changes."""

TEST = {"coop": coop_test, "fgvc": fgvc_test, "vtab": squash, "l2p": l2p_test, "center": coop_test}
"""Recipe -> its test side."""


FIXED = ("vtab", "center")
"""Recipes whose train side draws nothing at random: all views of an image are the same."""


def train_transform(
    name: str, size: int | Size, mean: Sequence[float], std: Sequence[float], *, upright: bool = False
) -> Transform:
    """The train side of a recipe: RGB image to (3, *size), normalised by channel `mean` and `std` (of 0..1).

    `upright`: turn images by their EXIF orientation first.
    """
    return _build(TRAIN, name, size, mean, std, upright)


def test_transform(
    name: str, size: int | Size, mean: Sequence[float], std: Sequence[float], *, upright: bool = False
) -> Transform:
    """The test side of a recipe; arguments as of `train_transform`."""
    return _build(TEST, name, size, mean, std, upright)


def _build(
    table: Mapping[str, Callable[[Size], list[Step]]],
    name: str,
    size: int | Size,
    mean: Sequence[float],
    std: Sequence[float],
    upright: bool,
) -> Transform:
    if name not in table:
        raise unknown("transform", name, table)
    turned = [Upright()] if upright else []
    pair = (size, size) if isinstance(size, int) else (size[0], size[1])
    return Transform(v2.Compose([*turned, *table[name](pair)]), tuple(mean), tuple(std))
