"""Any module from images to features as an image tower: its sizes are found out by one forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError
from promptvision.own_code import own_code


class PlainTower(ImageTower):
    """A module that maps images (B, 3, H, W) to features (B, E), or to an output of transformers with a pooled one.

    `size`: height and width of the images, else those which the module or its configuration names, else 224. It has
    no tokens: it serves for heads on features, nearest neighbours, learned borders and side-tuning.
    """

    def __init__(self, model: nn.Module, size: int = 0, why_no_tokens: str = ""):
        super().__init__()
        self.model, self.name = model.eval(), type(model).__name__
        if next(model.parameters(), None) is None:
            self.nothing = nn.Parameter(torch.empty(0))  # tells the device, as the weights of other towers do
        known = getattr(getattr(model, "config", model), "image_size", None)
        self.image_size = size or (known if isinstance(known, int) else 224)
        self.why_no_tokens = why_no_tokens or self.why_no_tokens
        like = next(model.parameters(), torch.zeros(()))
        images = torch.zeros(2, 3, self.image_size, self.image_size, device=like.device, dtype=like.dtype)
        with torch.no_grad(), own_code(f"{self.name} on images of {self.image_size} pixels (INPUT.SIZE)"):
            features = self.untouched(images)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != 2:
            found = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            raise InputError(f"{self.name} maps two images to {found}, not to features (2, E); wrap it so that it does")
        self.feature_dim = features.shape[1]

    def untouched(self, images: Tensor) -> Tensor:
        output: Any = self.model(images)
        if not isinstance(output, Tensor) and isinstance(getattr(output, "pooler_output", None), Tensor):
            output = output.pooler_output
            return output.flatten(1) if output.shape[2:] == (1, 1) else output
        return output
