"""CLIP-Adapter: feature adapters after CLIP's towers (Gao et al., IJCV 2023, arXiv:2110.04544)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError


class Adapter(nn.Module):
    """A(f) = ReLU(f W1) W2, (..., E) -> same, through E / `reduction` units (section 3.2); no biases.

    So A(c f) = c A(f) for c > 0: normalising f first makes no difference to a cosine. `last_relu`: another ReLU after
    W2.
    """

    def __init__(self, dim: int, reduction: int, last_relu: bool):
        super().__init__()
        hidden, self.last_relu = max(1, dim // reduction), last_relu
        self.down, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        found = self.up(F.relu(self.down(features)))
        return F.relu(found) if self.last_relu else found


class ClipAdapter(FeatureMethod):
    """Features mixed with what a learned bottleneck makes of them: ratio A(f) + (1 - ratio) f (section 3.2).

    `image_ratio`, `text_ratio`: the paper's alpha and beta; a side with ratio 0 has no adapter. `reduction`: E over the
    width of the bottleneck. `last_relu`: a ReLU after the second layer, which the official code has and the paper has
    not. `templates`: texts with `{}` for the class name. Learns `image_adapter`, `text_adapter`.
    """

    frozen_images = True
    base: Tensor

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        templates: Sequence[str] = (),
        image_ratio: float = 0.2,
        text_ratio: float = 0.0,
        reduction: int = 4,
        last_relu: bool = False,
    ):
        super().__init__(backbone, classes)
        for name, ratio in (("image_ratio", image_ratio), ("text_ratio", text_ratio)):
            if not 0 <= ratio <= 1:
                raise InputError(f"{name} is {ratio:g}; it takes a number from 0 (no adapter) to 1 (only the adapter)")
        if not image_ratio and not text_ratio:
            raise InputError("image_ratio and text_ratio are both 0: there is no adapter to learn")
        if reduction < 1:
            raise InputError(f"reduction is {reduction}; it divides the features' width and must be at least 1")
        self.templates, self.ratios = given_templates(templates), (image_ratio, text_ratio)
        self.register_buffer("base", class_features(backbone, filled(self.templates, classes)), persistent=False)
        width = backbone.image.feature_dim
        self.image_adapter, self.text_adapter = (
            Adapter(width, reduction, last_relu) if ratio else None for ratio in self.ratios
        )

    def image_features(self, images: Tensor) -> Tensor:
        return mixed(self.backbone.image.as_features(images), self.image_adapter, self.ratios[0])

    def text_features(self) -> Tensor:
        return mixed(self.base, self.text_adapter, self.ratios[1])


def mixed(features: Tensor, adapter: Adapter | None, ratio: float) -> Tensor:
    """Mix features (..., E) with the output of their adapter, if there is one."""
    return torch.lerp(features, adapter(features).to(features.dtype), ratio) if adapter else features
