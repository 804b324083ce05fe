"""The classifier that every ViT method ends in."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from promptvision.errors import unknown


def _as_published(layer: nn.Linear) -> None:
    """The official start: Kaiming normal by fan-out, bias -log 99. A constant bias does not change a softmax."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    nn.init.constant_(layer.bias, -math.log(99))


def _small(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)


INITS: dict[str, Callable[[nn.Linear], None]] = {"small": _small, "published": _as_published}
"""How the classifier starts: "small" is N(0, 0.01); "published" is far larger for few classes and starts worse."""


class Head(nn.Module):
    """One linear layer on the feature, (B, E) to (B, C): VPT's `head.last_layer`."""

    def __init__(self, feature_dim: int, classes: int, init: str = "small"):
        super().__init__()
        if init not in INITS:
            raise unknown("head_init", init, INITS)
        self.last_layer = nn.Linear(feature_dim, classes)
        INITS[init](self.last_layer)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(features)
