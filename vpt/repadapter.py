"""RepAdapter: grouped linear maps in front of attention and MLP, which fold away (Luo et al., arXiv:2302.08106)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError
from vpt.parts.attach import own_blocks
from vpt.parts.beside import Beside
from vpt.parts.folding import copied, rows
from vpt.parts.heads import Head

TARGETS = {"adapter_attn": ("q", "k", "v"), "adapter_mlp": ("fc1",)}
"""The weights that read what each module changes."""
KINDS = (Block, ResidualAttentionBlock)


class Map(nn.Module):
    """The change scale B(A(x)): A (d, D, 1), B (D, d / groups, 1), whose output channels see one group of hidden ones.

    A starts Xavier uniform, B and both biases at zero.
    """

    def __init__(self, width: int, hidden: int, groups: int, scale: float, dropout: float):
        super().__init__()
        self.conv_A, self.conv_B = nn.Conv1d(width, hidden, 1), nn.Conv1d(hidden, width, 1, groups=groups)
        self.groups, self.scale, self.dropout = groups, scale, dropout
        nn.init.xavier_uniform_(self.conv_A.weight)
        for zero in (self.conv_A.bias, self.conv_B.weight, self.conv_B.bias):
            nn.init.zeros_(zero)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = F.linear(tokens, self.conv_A.weight.squeeze(-1), self.conv_A.bias)
        return self.up(F.dropout(hidden, self.dropout, self.training))

    def up(self, hidden: Tensor) -> Tensor:
        """Return scale B(hidden), (..., d) to (..., D)."""
        weights = self.conv_B.weight.squeeze(-1).chunk(self.groups)
        parts = zip(hidden.chunk(self.groups, dim=-1), weights, strict=True)
        return self.scale * (torch.cat([F.linear(*part) for part in parts], dim=-1) + self.conv_B.bias)  # type: ignore[operator]


class RepAdapter(Beside):
    """A linear map in front of attention and MLP of every block, f(x + s B(A(x))) with x = norm(h), and a linear head.

    `bottleneck`: width d between A and B. `groups`: groups of B. `scale`: factor s. `attention_only`: attention alone
    has one. `dropout`: dropout between A and B; the official code's is 0.1. `head_init`: init of the classifier,
    "small" or "published". `merged` folds the maps into the weights after them, so they cost nothing at test.
    Learns `blocks.i.adapter_{attn,mlp}.conv_{A,B}.{weight, bias}` and the head.
    """

    where = "front"

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        bottleneck: int = 8,
        groups: int = 2,
        scale: float = 1.0,
        attention_only: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        if groups < 1 or bottleneck % groups or backbone.width % groups:
            raise InputError(f"groups is {groups}; it divides bottleneck {bottleneck} and width {backbone.width}")
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self.place(partial(Map, backbone.width, bottleneck, groups, scale, dropout), attention_only, KINDS)
        if any(not {"q", "k", "v", "fc1"} <= rows(block).keys() for block in own_blocks(backbone)):
            raise InputError(f"backbone {backbone.name!r} has blocks into whose weights RepAdapter does not fold")

    @torch.no_grad()
    def merged(self) -> ImageTower:
        tower = copied(self.backbone)
        for block, modules in zip(own_blocks(tower), self.blocks, strict=True):
            weights = rows(block, biases=True)
            for name, module in modules.items():  # type: ignore[operator]
                down, bias = module.conv_A.weight.squeeze(-1), module.conv_A.bias
                offset = module.up(bias)
                matrix = (module.up(down.T + bias) - offset).T
                for target in TARGETS[name]:
                    weights[target].bias.add_(weights[target].weight @ offset)  # type: ignore[union-attr]
                    weights[target].weight.add_(weights[target].weight @ matrix)
        return tower
