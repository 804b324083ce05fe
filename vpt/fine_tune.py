"""Methods that tune parts of the network as it is, without prompts (VPT, arXiv:2203.12119, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError
from vpt.parts.attach import Hook, attached, mlp_blocks, own_blocks
from vpt.parts.fresh import draw_anew, final_norms, last_parts
from vpt.parts.heads import HeadMethod
from vpt.parts.thaw import thaw_biases, thaw_class_token


class Linear(HeadMethod):
    """A linear classifier, or an MLP, on the frozen backbone's features.

    `head_init`: how the classifier starts, "small" or "published". `hidden_layers`: layers before it; the paper's
    MLP-k has k - 1. `head_dropout`: behind each of them. Learns `head.last_layer.{weight, bias}` and
    `head.projection.*`, with the running statistics of its norms.
    """

    frozen_images = True

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        head_init: str = "small",
        hidden_layers: int = 0,
        head_dropout: float = 0.1,
    ):
        super().__init__(backbone, classes, head_init, hidden_layers, head_dropout)

    def features(self, images: Tensor) -> Tensor:
        return self.backbone.as_features(images)


class Partial(HeadMethod):
    """The last blocks, the norm behind them, and a linear head; what is before them stays frozen.

    `blocks`: how many, of a network made of stages how many stages. `reinit`: they start from random weights, drawn
    as timm or open_clip draw them, not from the pretrained. Batch norms keep the statistics that they start with.
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
        super().__init__(backbone, classes, head_init)
        last = [*last_parts(backbone, blocks), *final_norms(backbone)]
        if reinit and blocks:
            draw_anew(backbone, last)
        for part in last:
            part.requires_grad_(True)


class Bias(HeadMethod):
    """Every bias of the backbone and a linear head: BitFit (arXiv:2106.10199), the official `tinytl-bias`.

    On convolutional networks the official code computes the backbone without gradients, so that only its head learns;
    here the biases learn there too (batch norms keep their statistics).
    """

    def __init__(self, backbone: ImageTower, classes: Sequence[str], *, head_init: str = "small"):
        super().__init__(backbone, classes, head_init)
        thaw_biases(backbone)


class ClassToken(HeadMethod):
    """The class token and a linear head. `reinit`: the token starts from N(0, 1e-6), not from the pretrained."""

    def __init__(self, backbone: ImageTower, classes: Sequence[str], *, reinit: bool = False, head_init: str = "small"):
        super().__init__(backbone, classes, head_init)
        thaw_class_token(backbone, reinit)


class Full(HeadMethod):
    """The whole backbone and a linear head, in training mode while it trains.

    `dropout`: on the embeddings, and in each MLP behind its activation and its output; the official `end2end` has
    0.1 there, for this method alone. `from_scratch`: the backbone starts from random weights, drawn as timm or
    open_clip draw them. Learns all that the feature depends on, and the running statistics of batch norms.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        dropout: float = 0.0,
        from_scratch: bool = False,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes, head_init)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}; it takes a share from 0 to below 1")
        if dropout and not (own_blocks(backbone) and mlp_blocks(backbone)):
            raise InputError(f"backbone {backbone.name!r} has no transformer blocks for dropout; set it to 0")
        self.dropout = dropout
        if from_scratch:
            draw_anew(backbone)
        _thaw_what_counts(backbone)

    def train(self, mode: bool = True) -> Full:
        """Training mode for the backbone too: batch norms follow the images, and are learned."""
        super().train(mode)
        self.backbone.train(mode)
        return self

    def features(self, images: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return self.backbone(images)
        with attached(self._dropouts()):
            return self.backbone(images)

    def _dropouts(self) -> Iterator[tuple[nn.Module, Hook]]:
        def drop(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return F.dropout(output, self.dropout)

        yield _embedding(self.backbone), drop
        for block in mlp_blocks(self.backbone):
            mlp: Any = block.mlp
            yield mlp.act if hasattr(mlp, "act") else mlp.gelu, drop
            yield mlp, drop

    def _changing(self) -> list[str]:
        """Besides what every method learns, what the backbone keeps count of."""
        names = {*super()._changing(), *(name for name, _ in self.named_buffers())}
        return [name for name in self.state_dict() if name in names]


def _embedding(tower: ImageTower) -> nn.Module:
    """The module through which the embedded tokens, positions added, go: timm's dropout or CLIP's patch dropout."""
    model: Any = getattr(tower, "model", tower)
    return model.pos_drop if hasattr(model, "pos_drop") else model.patch_dropout


def _thaw_what_counts(tower: ImageTower) -> None:
    """Thaw the parameters that the feature depends on, found by one backward pass: not a classifier left unused."""
    parameters = list(tower.requires_grad_(True).parameters())
    size, kind = tower.image_size, parameters[0]
    with torch.enable_grad():
        feature = tower(torch.zeros(1, 3, size, size, device=kind.device, dtype=kind.dtype))
    gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
