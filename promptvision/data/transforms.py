"""Recipes of the official codes that turn an RGB PIL image into a normalised float32 tensor (3, H, W).

Every recipe has a training side and a test side. PIL resizes, with antialiased bicubic and bilinear filters, unless
torchvision's resize of uint8 tensors is asked for; random choices are drawn from torch's global generator. A side has
two halves: the pixels, image by image, and the arithmetic on them, which a loader does once per batch, with the same
bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, ToTensor, v2

from promptvision.atomic import DAMAGE
from promptvision.data.file_views import FileViews, Wanted
from promptvision.errors import unknown

Step: TypeAlias = "nn.Module | ToTensor"
Size = tuple[int, int]
"""(height, width) in pixels."""
Recipe = Callable[[Size], list[Step]]

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


@dataclass(frozen=True, eq=False)
class Transform:
    """One side of a recipe, called with an RGB image: (3, H, W) float32, normalised; (V, 3, H, W) with views."""

    steps: v2.Compose
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.finish(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return (3, H, W), uint8, or float32 from 0 to 1 if the recipe resizes floats; all random draws are here."""
        return self.steps(image)

    def bytes_of_image(self) -> int:
        """Return the bytes of what `pixels` returns; no random draw is used up."""
        with torch.random.fork_rng(devices=[]):
            return self.pixels(Image.new("RGB", (2, 2))).nbytes

    def finish(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (..., 3, H, W) on their device as torchvision's ToTensor and Normalize do, bit for bit."""
        white, mean, std = _constants(self.mean, self.std, pixels.device)
        if pixels.dtype == torch.uint8:
            return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(white).sub_(mean).div_(std)
        return pixels.sub(mean).div_(std)


@lru_cache(maxsize=64)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Return 255, mean and std, float32 of (1 or 3, 1, 1), once per device.

    Copying them there for each batch would wait for the device; by a number a GPU would not divide but multiply.
    """
    return tuple(
        torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in ((255.0,), mean, std)
    )


TEST: dict[str, Recipe] = {
    # shorter side to the larger of `size`, centre crop (Dassl `_build_transform_test`, CLIP)
    "coop": lambda size: [v2.Resize(max(size), interpolation=BICUBIC), v2.CenterCrop(size), v2.PILToTensor()],
    # shorter side to 8/7 of the crop: 224 -> 256, 384 -> 438, 448 -> 512 (VPT `src/data/transforms.py`)
    "fgvc": lambda size: [v2.Resize(max(size) * 8 // 7, interpolation=BILINEAR), v2.CenterCrop(size), v2.PILToTensor()],
    # whatever the aspect, not antialiased, on floats like `tf.image.resize` (VPT `src/data/vtab_datasets`)
    "vtab": lambda size: [ToTensor(), v2.Resize(size, interpolation=BILINEAR, antialias=False)],
    # shorter side to 8/7 of the crop (l2p-pytorch `datasets.py`)
    "l2p": lambda size: [v2.Resize(max(size) * 8 // 7, interpolation=BICUBIC), v2.CenterCrop(size), v2.PILToTensor()],
    # whatever the aspect (CODA-Prompt `dataloaders/utils.py`)
    "coda": lambda size: [v2.Resize(size, interpolation=BILINEAR), v2.PILToTensor()],
    # whatever the aspect (JieShibo/PETL-ViT `vtab.py`)
    "petl": lambda size: [v2.Resize(size, interpolation=BICUBIC), v2.PILToTensor()],
}
"""Recipe -> its test side."""
TEST["tip_adapter"] = TEST["randaugment"] = TEST["center"] = TEST["coop"]

TRAIN: dict[str, Recipe] = {
    # 8 to 100 % of the area (CoOp `configs/trainers`, Dassl)
    "coop": lambda size: [
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BICUBIC),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    # 50 to 100 % of the area (Tip-Adapter `main.py`)
    "tip_adapter": lambda size: [
        v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    # VPT `src/data/transforms.py`
    "fgvc": lambda size: [
        v2.Resize(max(size) * 8 // 7, interpolation=BILINEAR),
        v2.RandomCrop(size),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    "vtab": TEST["vtab"],
    "petl": TEST["petl"],
    # 5 to 100 % of the area (l2p-pytorch `datasets.py`)
    "l2p": lambda size: [
        v2.RandomResizedCrop(size, scale=(0.05, 1.0), interpolation=BILINEAR),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    # 8 to 100 % of the area (CODA-Prompt `dataloaders/utils.py`)
    "coda": lambda size: [
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BILINEAR),
        v2.RandomHorizontalFlip(0.5),
        v2.PILToTensor(),
    ],
    # whatever the aspect, then 2 operations of RandAugment at 10 of 30 (CoPrompt, Dassl)
    "randaugment": lambda size: [v2.Resize(size, interpolation=BICUBIC), v2.RandAugment(2, 10), v2.PILToTensor()],
    "center": TEST["center"],
}
"""Recipe -> its training side. "center" is for classes that a crop or flip changes."""

RESIZES = ("pillow", "tensor")
"""Libraries that resize: Pillow, as in the official codes, or torchvision's kernels for uint8 tensors."""
FIXED = ("vtab", "petl", "center")
"""Recipes that draw nothing in training: all views of an image are the same."""


def train_transform(
    name: str,
    size: int | Size,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    upright: bool = False,
    resize: str = "pillow",
) -> Transform:
    """Return the training side of a recipe: RGB image to (3, *size), normalised by channel `mean` and `std` (of 0..1).

    `upright`: first rotate images by their EXIF orientation. `resize`: one of RESIZES; views are the same crops. "vtab"
    resizes floats, the same in both.
    """
    return _build(TRAIN, name, size, mean, std, upright, resize)


def test_transform(
    name: str,
    size: int | Size,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    upright: bool = False,
    resize: str = "pillow",
    views: Wanted | None = None,
) -> Transform:
    """Return the test side of a recipe, with the arguments of `train_transform`.

    With `views` an image becomes (V, 3, *size): the test side of the recipe, then random crops of the whole image.
    """
    return _build(TEST, name, size, mean, std, upright, resize, views)


def _build(
    table: Mapping[str, Recipe],
    name: str,
    size: int | Size,
    mean: Sequence[float],
    std: Sequence[float],
    upright: bool,
    resize: str,
    views: Wanted | None = None,
) -> Transform:
    if name not in table:
        raise unknown("transform", name, table)
    if resize not in RESIZES:
        raise unknown("resize", resize, RESIZES)
    rotate = [v2.Lambda(exif_transpose)] if upright else []
    pair = (size, size) if isinstance(size, int) else (size[0], size[1])
    steps = table[name](pair)
    floats = isinstance(steps[0], ToTensor)
    if views:
        steps = [FileViews(views, v2.Compose(steps), pair, resize, floats)]
    elif resize == "tensor" and not floats:
        steps = [v2.PILToTensor(), *steps]
    return Transform(v2.Compose([*rotate, *steps]), tuple(mean), tuple(std))


def exif_transpose(image: Image.Image) -> Image.Image:
    """Return the image rotated by its EXIF orientation, or as it is if its EXIF data are damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, without the file's name
        try:
            return ImageOps.exif_transpose(image)
        except DAMAGE:
            return image
