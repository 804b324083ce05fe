"""Methods that tune parts of the network itself, without prompts (VPT, arXiv:2203.12119, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.image import layer_features
from promptvision.errors import InputError, check_share
from vpt.parts.attach import attached, mlp_blocks, own_blocks
from vpt.parts.fresh import last_parts, reinitialize
from vpt.parts.heads import Head, HeadMethod
from vpt.parts.thaw import biases, class_token, layer_norms


class Linear(HeadMethod):
    """A linear classifier, or an MLP, on the frozen backbone's features.

    `head_init`: init of the classifier, "small" or "published". `hidden_layers`: hidden layers of the head; the paper's
    MLP-k has k - 1. `head_dropout`: dropout after each hidden layer. `mixture`: the features after all blocks, each
    pooled as those after the last, in a learned mixture, a softmax of weights times a scale (ELMo, arXiv:1802.05365,
    equation 1). Learns `head.last_layer.{weight, bias}` and `head.projection.*`, with the running statistics of its
    norms, and with `mixture` `mixture_weights` (blocks,), from 0, and `mixture_scale`, from 1.
    """

    frozen_images = True
    stackable = True

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        head_init: str = "small",
        hidden_layers: int = 0,
        head_dropout: float = 0.1,
        mixture: bool = False,
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init, hidden_layers, head_dropout)
        self.frozen_layers = mixture
        self.stackable = not hidden_layers and not mixture  # dropout draws, and batch norms count
        if mixture:
            if not backbone.depth:
                raise InputError(f"backbone {backbone.name!r} has no transformer blocks to mix; set mixture to false")
            self.mixture_weights = nn.Parameter(torch.zeros(backbone.depth))
            self.mixture_scale = nn.Parameter(torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        if not self.frozen_layers:
            return self.backbone.as_features(images)
        layers = layer_features(self.backbone, images).unflatten(1, (self.backbone.depth, -1))
        return self.mixture_scale * torch.einsum("l,ble->be", self.mixture_weights.softmax(dim=0), layers)


class Partial(HeadMethod):
    """The last blocks, the norm after them, and a linear head; everything before stays frozen.

    `blocks`: number of blocks that learn, or of stages in a network made of stages. `reinit`: they start from random
    weights, drawn as timm or open_clip draw them, instead of the pretrained. `head_init`: init of the classifier,
    "small" or "published". Batch norms keep the statistics that they start with.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        blocks: int = 1,
        reinit: bool = False,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        last = last_parts(backbone, blocks)
        if reinit and blocks:
            reinitialize(backbone, last)
        self.thaw(parameter for part in last for parameter in part.parameters())


class Bias(HeadMethod):
    """Every bias of the backbone and a linear head: BitFit (arXiv:2106.10199), the official `tinytl-bias`.

    On convolutional networks the official code computes the backbone without gradients, so that only its head learns;
    here the biases learn there too (batch norms keep their statistics). `head_init`: init of the classifier, "small" or
    "published".
    """

    def __init__(
        self, backbone: ImageTower, classes: Sequence[str], *, drop_path: float = 0.0, head_init: str = "small"
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self.thaw(biases(backbone))


class LayerNorms(HeadMethod):
    """The weights and biases of every layer norm, and a linear head: LN-tuning (arXiv:2409.16434).

    `head_init`: init of the classifier, "small" or "published".
    """

    def __init__(
        self, backbone: ImageTower, classes: Sequence[str], *, drop_path: float = 0.0, head_init: str = "small"
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self.thaw(layer_norms(backbone))


class ClassToken(HeadMethod):
    """The class token and a linear head.

    `reinit`: the token starts from N(0, 1e-6), instead of the pretrained. `head_init`: init of the classifier, "small"
    or "published".
    """

    def __init__(self, backbone: ImageTower, classes: Sequence[str], *, reinit: bool = False, head_init: str = "small"):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self.thaw([class_token(backbone, reinit)])


class Full(HeadMethod):
    """The whole backbone and a linear head, in training mode while it trains.

    `from_scratch`: the backbone starts from random weights, drawn as timm or open_clip draw them. `dropout`: dropout
    of the embeddings, and in each MLP after its activation and its output; the official `end2end` has 0.1, for this
    method only. `head_init`: init of the classifier, "small" or "published". Learns all that the feature depends on,
    and the running statistics of batch norms.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        from_scratch: bool = False,
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        check_share("dropout", dropout)
        if dropout and not (own_blocks(backbone) and mlp_blocks(backbone)):
            raise InputError(f"backbone {backbone.name!r} has no transformer blocks for dropout; set it to 0")
        self.dropout = dropout
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        if from_scratch:
            reinitialize(backbone)
        self.thaw(_what_counts(backbone))

    def train(self, mode: bool = True) -> Full:
        """Switch the backbone too: batch norms follow the images, and are learned."""
        super().train(mode)
        self.backbone.train(mode)
        return self

    def features(self, images: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return self.backbone(images)
        model: Any = getattr(self.backbone, "model", self.backbone)
        dropped = [model.pos_drop if hasattr(model, "pos_drop") else model.patch_dropout]  # timm's and CLIP's
        for block in mlp_blocks(self.backbone):
            mlp: Any = block.mlp
            dropped += [mlp.act if hasattr(mlp, "act") else mlp.gelu, mlp]
        with attached((module, lambda *call: F.dropout(call[-1], self.dropout)) for module in dropped):
            return self.backbone(images)

    def _changing(self) -> list[str]:
        """Add the buffers of the backbone: the running statistics of its batch norms."""
        names = {*super()._changing(), *(name for name, _ in self.named_buffers())}
        return [name for name in self.state_dict() if name in names]


def _what_counts(tower: ImageTower) -> list[nn.Parameter]:
    """Find the parameters that the feature depends on, by one backward pass: not a classifier left unused."""
    parameters = list(tower.requires_grad_(True).parameters())
    size, kind = tower.image_size, parameters[0]
    with torch.enable_grad():
        feature = tower(torch.zeros(1, 3, size, size, device=kind.device, dtype=kind.dtype))
    if not feature.requires_grad:
        raise InputError(f"backbone {tower.name!r} has no weights to fine-tune: choose a method that learns a head")
    gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
    tower.requires_grad_(False)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
