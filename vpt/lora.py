"""LoRA of an image tower: low-rank changes of attention and MLP weights (Hu et al., ICLR 2022, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.lora import TARGETS, LowRank, check, known_view, shapes
from promptvision.errors import InputError
from vpt.parts.attach import mlp_blocks
from vpt.parts.changes import changed_features
from vpt.parts.folding import copied, linears, rows
from vpt.parts.heads import Head, HeadMethod


class Lora(HeadMethod):
    """Low-rank changes of the weights of every block, and a linear head.

    `rank`: rank of A and B. `alpha`: the changes are scaled by alpha / rank. `targets`: weights that change, any of q,
    k, v, o (attention) and fc1, fc2 (MLP); each part of a fused qkv has its own A and B. `dropout`: dropout of the
    input of A. `head_init`: init of the classifier, "small" or "published".
    Learns `blocks.i.<target>.lora_A` (rank, in), `blocks.i.<target>.lora_B` (out, rank) and the head.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        rank: int = 4,
        alpha: float = 4.0,
        targets: Sequence[str] = ("q", "v"),
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        check(rank, targets, dropout)
        found = [_shapes(block, backbone.name, targets) for block in mlp_blocks(backbone)]
        if not found:
            raise InputError(f"backbone {backbone.name!r} has no blocks with attention and MLP; choose a transformer")
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: LowRank(*shape, rank, alpha / rank, dropout) for name, shape in block.items()})
            for block in found
        )

    def features(self, images: Tensor) -> Tensor:
        return changed_features(self.backbone, images, list(self.blocks))  # type: ignore[arg-type]

    @torch.no_grad()
    def merged(self) -> ImageTower:
        tower = copied(self.backbone)
        for block, changes in zip(mlp_blocks(tower), self.blocks, strict=True):
            weights = rows(block)
            for name, change in changes.items():  # type: ignore[operator]
                weights[name].weight.add_(change.product())
        return tower


def _shapes(block: Any, backbone: str, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return {target: (in, out)} of a block, in the order of `TARGETS`."""
    if isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
        found = shapes(known_view(block, backbone))
    else:
        layers = ((layer, names, name) for layer, names in linears(block) for name in names)
        found = {name: (layer.in_features, layer.out_features // len(names)) for layer, names, name in layers}
    for target in targets:
        if target not in found:
            raise InputError(f"backbone {backbone!r} has no linear layer for LoRA's target {target!r}")
    return {name: found[name] for name in TARGETS if name in targets}
