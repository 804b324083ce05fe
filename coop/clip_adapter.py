"""CLIP-Adapter: feature adapters after CLIP's towers (Gao et al., IJCV 2023, arXiv:2110.04544)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError


def bottleneck(dim: int, reduction: int, last_relu: bool) -> nn.Sequential:
    """Return A(f) = ReLU(W2 ReLU(W1 f)), (..., E) -> same, W1 to E / `reduction` units; no biases.

    A(c f) = c A(f) for c > 0: normalising f first makes no difference to a cosine.
    """
    hidden = max(1, dim // reduction)
    layers = nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False))
    return layers.append(nn.ReLU()) if last_relu else layers


def mixed(features: Tensor, adapter: nn.Module | None, ratio: float) -> Tensor:
    """Return ratio A(f) + (1 - ratio) f; without an adapter, f."""
    return features if adapter is None else torch.lerp(features, adapter(features).to(features.dtype), ratio)


class ClipAdapter(FeatureMethod):
    """Features mixed with the output of a learned bottleneck: ratio A(f) + (1 - ratio) f (section 3.2).

    `image_ratio`, `text_ratio`: the paper's alpha and beta; a side with ratio 0 has no adapter. `reduction`: E over the
    width of the bottleneck. `last_relu`: a ReLU after the second layer, which the official code has and the paper has
    not. `templates`: texts with `{}` for the class name. Learns `fc` on the image side and `text_fc` on the other.
    gaopengcuhk/CLIP-Adapter was published without a configuration: optimiser and schedule of the published runs are
    unknown.
    """

    frozen_images = True
    stackable = True
    base: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *, templates: Sequence[str] = (),
        image_ratio: float = 0.2, text_ratio: float = 0.0, reduction: int = 4, last_relu: bool = True,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        for name, ratio in (("image_ratio", image_ratio), ("text_ratio", text_ratio)):
            if not 0 <= ratio <= 1:
                raise InputError(f"{name} is {ratio:g}; it takes a number from 0 (no adapter) to 1 (only the adapter)")
        if not image_ratio and not text_ratio:
            raise InputError("image_ratio and text_ratio are both 0: there is no adapter to learn")
        if reduction < 1:
            raise InputError(f"reduction is {reduction}; it divides the features' width and must be at least 1")
        self.templates, dim = given_templates(templates), backbone.image.feature_dim
        self.register_buffer("base", class_features(backbone, filled(self.templates, classes)), persistent=False)
        self.fc, self.text_fc = (
            bottleneck(dim, reduction, last_relu) if ratio else None for ratio in (image_ratio, text_ratio)
        )
        self.image_ratio, self.text_ratio = image_ratio, text_ratio

    def image_features(self, images: Tensor) -> Tensor:
        return mixed(self.backbone.image.as_features(images), self.fc, self.image_ratio)

    def text_features(self) -> Tensor:
        return mixed(self.base, self.text_fc, self.text_ratio)
