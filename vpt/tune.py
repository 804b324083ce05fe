"""Methods that tune parts of the network as it is, without prompts (VPT, arXiv:2203.12119, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.method import Method
from vpt.heads import Head


class Linear(Method):
    """A linear classifier on the frozen backbone's features. Learns `head.last_layer.{weight, bias}`.

    `head_init`: how the classifier starts, "small" or "published".
    """

    backbone: ImageTower
    frozen_images = True
    no_decay = frozenset({"head.last_layer.bias"})

    def __init__(self, backbone: ImageTower, classes: Sequence[str], *, head_init: str = "small"):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone.as_features(images))
