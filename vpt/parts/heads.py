"""The classifier that ends every ViT method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from promptvision.method import Method
from vpt.parts.attach import attached
from vpt.parts.drop_path import check_drop_path, drop_path_hooks

INITS = ("small", "published")
FOLDING = ("lora", "diff_fit", "ssf", "fact", "repadapter")
"""Methods whose changes fold into the weights of the backbone: those that define `HeadMethod.merged`."""


class Head(nn.Module):
    """A classifier of features, (B, E) to (B, C): VPT's `head.last_layer`, after `hidden` hidden layers.

    `init`: "small" is N(0, 0.01) with zero biases; "published" is Kaiming normal by fan-out with biases -log 99, which
    is far larger for few classes and starts worse (equal biases do not change a softmax). A hidden layer is Linear,
    ReLU, BatchNorm1d, Dropout, all of width E: `projection.{0, 4, ...}` are the linear layers, `projection.{2, 6, ...}`
    the norms (KMnP/vpt `src/models/mlp.py`; its MLP_NUM is `hidden`). `norm`: a batch norm without weights comes first,
    as in linear probes of MAE and in AdaptFormer's image runs.
    """

    def __init__(
        self,
        feature_dim: int,
        classes: int,
        init: str = "small",
        hidden: int = 0,
        dropout: float = 0.1,
        norm: bool = False,
    ):
        super().__init__()
        if init not in INITS:
            raise unknown("head_init", init, INITS)
        if hidden < 0 or not 0 <= dropout < 1:
            raise InputError(f"hidden_layers is {hidden}, head_dropout {dropout}; take 0 or more, and 0 to below 1")
        self.projection = nn.Sequential()
        if norm:
            self.projection.append(nn.BatchNorm1d(feature_dim, affine=False, eps=1e-6))
        for _ in range(hidden):
            linear = nn.Linear(feature_dim, feature_dim)
            nn.init.kaiming_normal_(linear.weight, mode="fan_out")
            self.projection.extend([linear, nn.ReLU(), nn.BatchNorm1d(feature_dim), nn.Dropout(dropout)])
        self.last_layer = nn.Linear(feature_dim, classes)
        if init == "small":
            nn.init.normal_(self.last_layer.weight, std=0.01)
            nn.init.zeros_(self.last_layer.bias)
        else:
            nn.init.kaiming_normal_(self.last_layer.weight, mode="fan_out")
            nn.init.constant_(self.last_layer.bias, -math.log(99))

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(self.projection) and len(features) < 2:
            raise InputError("a head with a batch norm normalises over a batch: it cannot train on a single image")
        return self.last_layer(self.projection(features))


class HeadMethod(Method):
    """A method whose logits are `head(features(images))`; subclasses make the head and may define the features.

    `drop_path`: share of training images for which the last block's attention, and its MLP, are left out; the blocks
    before have less, in proportion to their number (arXiv:1603.09382).
    """

    backbone: ImageTower
    head: nn.Module
    no_decay = frozenset({"head.last_layer.bias"})

    def __init__(self, backbone: ImageTower, classes: Sequence[str]):
        super().__init__(backbone, classes)
        self.drop_path = self.options.get("drop_path", 0.0)
        check_drop_path(backbone, self.drop_path)

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) into features (B, E), the input of the head."""
        return self.backbone(images)

    def features_of(self, images: Tensor) -> Tensor:
        return self.features(images)

    def forward(self, images: Tensor) -> Tensor:
        hooks = drop_path_hooks(self.backbone, self.drop_path) if self.training and self.drop_path else ()
        with attached(hooks):
            return self.head(self.features(images))

    def merged(self) -> ImageTower:
        """Return a frozen copy of the backbone whose features are this method's in eval mode, up to rounding.

        Raise InputError if the method's changes do not fold into weights.
        """
        ours = type(self).__name__
        raise InputError(f"{ours} does not fold into the backbone's weights; methods that do: {', '.join(FOLDING)}")

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """Return `forward`, on the merged backbone where the method folds.

        Not in 16 bits, where small changes of weights would be rounded away.
        """
        kind = next(self.head.parameters()).device.type
        if type(self).merged is HeadMethod.merged or torch.is_autocast_enabled(kind):
            return super().predictor()
        backbone = self.merged()
        return lambda images: self.head(backbone(images))
