"""From an RGB PIL picture to a normalised tensor (3, H, W), float32, by the official recipes.

Every recipe has a train and a test side. Resizing is PIL's, whose bicubic and bilinear filters are antialiased;
random choices are drawn from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, ToTensor, v2

from promptvision.errors import unknown

Transform = Callable[[Image.Image], Tensor]
Size = tuple[int, int]
"""(height, width) in pixels."""

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


def coop_train(size: Size) -> list[nn.Module | ToTensor]:
    """Random crop of 8 to 100 % of the area, bicubic, flip half the time (CoOp `configs/trainers`, Dassl)."""
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BICUBIC)
    return [crop, v2.RandomHorizontalFlip(0.5), ToTensor()]


def coop_test(size: Size) -> list[nn.Module | ToTensor]:
    """Shorter side to the larger of `size`, bicubic, centre crop (Dassl `_build_transform_test`, CLIP)."""
    return [v2.Resize(max(size), interpolation=BICUBIC), v2.CenterCrop(size), ToTensor()]


def _enlarged(size: Size) -> v2.Resize:
    """Shorter side to 8/7 of the crop, bilinear: 224 -> 256, 384 -> 438, 448 -> 512 (VPT)."""
    return v2.Resize(max(size) * 8 // 7, interpolation=BILINEAR)


def fgvc_train(size: Size) -> list[nn.Module | ToTensor]:
    """Resize, random crop, flip half the time (VPT `src/data/transforms.py`)."""
    return [_enlarged(size), v2.RandomCrop(size), v2.RandomHorizontalFlip(0.5), ToTensor()]


def fgvc_test(size: Size) -> list[nn.Module | ToTensor]:
    """Resize, centre crop (VPT `src/data/transforms.py`)."""
    return [_enlarged(size), v2.CenterCrop(size), ToTensor()]


def squash(size: Size) -> list[nn.Module | ToTensor]:
    """Straight to `size`, whatever the aspect, in training too: bilinear, not antialiased, on floats as
    `tf.image.resize` does it (VPT `src/data/vtab_datasets`)."""
    return [ToTensor(), v2.Resize(size, interpolation=BILINEAR, antialias=False)]


TRAIN = {"coop": coop_train, "fgvc": fgvc_train, "vtab": squash, "center": coop_test}
"""Recipe -> its train side. "center" is CoOp's test side in training too: for classes that a crop or flip changes."""

TEST = {"coop": coop_test, "fgvc": fgvc_test, "vtab": squash, "center": coop_test}
"""Recipe -> its test side."""


FIXED = ("vtab", "center")
"""Recipes whose train side draws nothing at random: all views of a picture are the same."""


def train_transform(name: str, size: int | Size, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """The train side of a recipe: RGB picture to (3, *size), normalised by channel `mean` and `std` (of 0..1)."""
    return _build(TRAIN, name, size, mean, std)


def test_transform(name: str, size: int | Size, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """The test side of a recipe: RGB picture to (3, *size), normalised by channel `mean` and `std` (of 0..1)."""
    return _build(TEST, name, size, mean, std)


def _build(
    table: Mapping[str, Callable[[Size], list[nn.Module | ToTensor]]],
    name: str,
    size: int | Size,
    mean: Sequence[float],
    std: Sequence[float],
) -> Transform:
    if name not in table:
        raise unknown("transform", name, table)
    pair = (size, size) if isinstance(size, int) else (size[0], size[1])
    return v2.Compose([*table[name](pair), v2.Normalize(list(mean), list(std))])
