"""DTL and DTL+: a low-rank sum beside a frozen ViT, added to late blocks (Fu et al., AAAI 2024, arXiv:2312.07856)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.lora import LowRank
from promptvision.errors import InputError
from vpt.parts.heads import Head, HeadMethod


class DTL(HeadMethod):
    """A sum S of low-rank changes of what enters each block, gated and added after late blocks, and a linear head.

    Before block l, S <- S + h A_l^T B_l^T; after each block from `first` on, h <- h + T(S sigmoid(beta S)). The
    feature is the mean of the patches, then the final norm. No gradient flows through the blocks up to `first`.
    `rank`: rank r of the changes. `beta`: steepness of the gate. `first`: first block after which S is added, from 0;
    -1 for the middle, 6 of 12 blocks. `kernel`: side k of a depth-wise convolution T over the grid of patches, one for
    all blocks (DTL+); 0 for none (DTL). `head_init`: init of the classifier, "small" or "published".

    Learns `lora_dict.l.lora_A` (r, D), `lora_dict.l.lora_B` (D, r), with `kernel` `lora_fusion.weight` (D, 1, k, k),
    and the head; `load_learned_state` takes the official names of the head too.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        rank: int = 2,
        beta: float = 100.0,
        first: int = -1,
        kernel: int = 0,
        drop_path: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        depth, width = backbone.depth, backbone.width
        if not depth:
            raise backbone.refusal()
        if not -1 <= first < depth:
            raise InputError(f"first is {first}; backbone {backbone.name!r} has blocks 0 to {depth - 1} (-1: middle)")
        if rank < 1 or kernel < 0:
            raise InputError(f"rank is {rank}, kernel {kernel}; take 1 or more, and 0 or more")
        self.first = depth // 2 if first < 0 else first
        self.lora_dict = nn.ModuleDict({str(index): LowRank(width, width, rank, 1.0) for index in range(depth)})
        if kernel:
            self.lora_fusion = nn.Conv2d(width, width, kernel, padding="same", groups=width, bias=False)
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def features(self, images: Tensor) -> Tensor:
        tower = self.backbone
        tokens = tower.enter(tower.embed(images))
        side = tokens.new_zeros(())
        for index, block in enumerate(tower.blocks):
            side = self.lora_dict[str(index)](tokens, side)
            tokens = tower.compute.run(block, block, tokens)
            tokens = self._added(tokens, side) if index >= self.first else tokens
        return tower.project(tower.normalize(tokens[:, tower.prefix :].mean(dim=1)))

    def _added(self, tokens: Tensor, side: Tensor) -> Tensor:
        """Return tokens + T(side sigmoid(beta side)), all of (B, N, D)."""
        gated = side * torch.sigmoid(self.options["beta"] * side)
        if not self.options["kernel"]:
            return tokens + gated
        prefix, patches = gated[:, : self.backbone.prefix], gated[:, self.backbone.prefix :]
        grid = patches.transpose(1, 2).unflatten(2, (math.isqrt(patches.shape[1]), -1))
        patches = self.lora_fusion(grid).flatten(2).transpose(1, 2)
        return tokens + torch.cat([prefix, patches], dim=1)

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        official = {"head.weight": "head.last_layer.weight", "head.bias": "head.last_layer.bias"}
        super().load_learned_state({official.get(name, name): tensor for name, tensor in state.items()})
