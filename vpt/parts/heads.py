"""The classifier that every ViT method ends in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from promptvision.method import Method


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
    """The classifier on the feature, (B, E) to (B, C): VPT's `head.last_layer`, behind k hidden layers if asked for.

    A hidden layer is Linear, ReLU, BatchNorm1d, Dropout, all of width E: `projection.{0, 4, ...}` are the linear
    layers, `projection.{2, 6, ...}` the norms (KMnP/vpt `src/models/mlp.py`; its MLP_NUM is k).
    """

    def __init__(self, feature_dim: int, classes: int, init: str = "small", hidden: int = 0, dropout: float = 0.1):
        super().__init__()
        if init not in INITS:
            raise unknown("head_init", init, INITS)
        if hidden < 0 or not 0 <= dropout < 1:
            raise InputError(
                f"a head has 0 or more hidden layers and a dropout from 0 to below 1, not {hidden} and {dropout}"
            )
        self.projection = nn.Sequential(*(part for _ in range(hidden) for part in _hidden_layer(feature_dim, dropout)))
        self.last_layer = nn.Linear(feature_dim, classes)
        INITS[init](self.last_layer)

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(self.projection) and len(features) < 2:
            raise InputError("a head with hidden layers normalises over a batch: it cannot train on a single image")
        return self.last_layer(self.projection(features))


def _hidden_layer(width: int, dropout: float) -> list[nn.Module]:
    linear = nn.Linear(width, width)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    return [linear, nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(dropout)]


class HeadMethod(Method):
    """A method whose logits are `head(features(images))`; subclasses say what the features are."""

    backbone: ImageTower
    no_decay = frozenset({"head.last_layer.bias"})

    def __init__(
        self, backbone: ImageTower, classes: Sequence[str], head_init: str, hidden: int = 0, dropout: float = 0.1
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init, hidden, dropout)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E), what the classifier sees."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
