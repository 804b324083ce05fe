"""Several views of a test image, cut from its file."""

from __future__ import annotations

import zlib
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from promptvision.data.augmix import augmix


class Wanted(Protocol):
    """A method's wish (`promptvision.method.ImageViews`), which this folder does not import."""

    @property
    def count(self) -> int: ...
    @property
    def smallest(self) -> float: ...
    @property
    def augmix(self) -> bool: ...
    @property
    def seed(self) -> int: ...


class FileViews(nn.Module):
    """A step that turns an RGB image into its test view and random crops of it as a whole, (V, 3, H, W).

    `test`: the steps of the test view, which comes first. The others are resized bilinearly (torchvision's default, as
    in azshue/TPT) and flipped half the time; then they go through AugMix if `views` says so. They depend on the image
    and the seed only. uint8, or float32 in 0..1 where a view is mixed or `test` resizes floats (`floats`). `resize`:
    one of `transforms.RESIZES`.
    """

    def __init__(self, views: Wanted, test: nn.Module, size: tuple[int, int], resize: str, floats: bool):
        super().__init__()
        self.views, self.test, self.floats = views, test, floats
        self.load = v2.PILToTensor() if resize == "tensor" else None
        crop = v2.RandomResizedCrop(size, scale=(views.smallest, 1.0), interpolation=InterpolationMode.BILINEAR)
        mix = [*([v2.ToPILImage()] if self.load else []), v2.Lambda(augmix)]
        self.change = v2.Compose([crop, v2.RandomHorizontalFlip(0.5), *(mix if views.augmix else [v2.PILToTensor()])])

    def forward(self, image: Image.Image) -> Tensor:
        """Return the views of an image."""
        loaded: Image.Image | Tensor = self.load(image) if self.load else image
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(image.tobytes(), self.views.seed))
            test = self.test(image if self.floats else loaded)
            found = [test, *(self.change(loaded) for _ in range(self.views.count - 1))]
        if any(view.is_floating_point() for view in found):
            found = [view if view.is_floating_point() else view.float().div_(255) for view in found]
        return torch.stack(found)
