"""Side-tuning: a small network beside a frozen one (Zhang et al., ECCV 2020, arXiv:1912.13503), as in VPT's code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, alexnet

from promptvision.backbones import ImageTower
from promptvision.backbones.weights import load_strictly, read_weights
from promptvision.errors import InputError
from promptvision.method import Batches
from promptvision.network import Source
from vpt.parts.heads import Head, HeadMethod

FLAT = 9216
"""Outputs of AlexNet's convolutions: 256 channels of 6 x 6."""
SMALLEST = 64
"""Images with a side below 63 pixels vanish in AlexNet's pooling: they are enlarged, bilinear, to this many."""


class Side(HeadMethod):
    """AlexNet's convolutions beside the frozen backbone: s f + (1 - s) P(alexnet), s = sigmoid(side_alpha).

    `side_weights`: AlexNet's weights when training begins: "none" (random), "default" (torchvision's ImageNet weights,
    downloaded, as published), or a file of them. `side_size`: pixels to which its images are resized; 0 keeps their
    size, except of those that are too small (`SMALLEST`). AlexNet was trained with 224. `head_init`: init of the
    classifier, "small" or "published". Learns `side_alpha`, `side.features.*`, `side_projection.weight` (E, 9216) and
    the head.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        side_weights: str = "none",
        side_size: int = 0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        if side_size and side_size < SMALLEST:
            raise InputError(f"side_size is {side_size}; AlexNet needs images of {SMALLEST} pixels or more")
        net = alexnet(weights=None)
        self.side_alpha = nn.Parameter(torch.zeros(()))
        self.side = nn.Sequential(OrderedDict(features=net.features, avgpool=net.avgpool))
        self.side_projection = nn.Linear(FLAT, backbone.feature_dim, bias=False)
        self.side_weights, self.side_size = side_weights, side_size

    def prepare(self, train: Batches, val: Batches) -> None:
        """Read AlexNet's weights: here, so that a trained method is rebuilt without them."""
        if self.side_weights != "none":
            state, path = _alexnet_state(self.side_weights)
            features = {name: value for name, value in state.items() if name.startswith("features.")}
            load_strictly(self.side, features, path)

    def features(self, images: Tensor) -> Tensor:
        return self.fuse(self.backbone(images), self.projected(images))

    def projected(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with the side network into features (B, E)."""
        size = self.side_size or (SMALLEST if min(images.shape[-2:]) < SMALLEST - 1 else 0)
        if size:
            images = F.interpolate(images, (size, size), mode="bilinear")
        return self.side_projection(self.side(images).flatten(1))

    def fuse(self, feature: Tensor, side: Tensor) -> Tensor:
        """Mix the backbone's feature (B, E) and the side's."""
        share = self.side_alpha.sigmoid()
        return share * feature + (1 - share) * side


def _alexnet_state(weights: str) -> tuple[dict[str, Any], Path]:
    """Return AlexNet's weights and the file that they are from."""
    if weights != "default":
        return read_weights(weights)[0], Path(weights)
    published = AlexNet_Weights.IMAGENET1K_V1
    advice = "give a file: METHOD.OPTIONS.SIDE_WEIGHTS path/to/alexnet.pth (or 'none' for random weights)"
    with Source.torch(published.url).use("AlexNet's weights", advice):
        state: Any = published.get_state_dict(progress=False)
    return state, Path("alexnet")
