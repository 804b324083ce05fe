"""The bottleneck of adapters (Houlsby et al., arXiv:1902.00751)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.errors import check_share, unknown

NORMS = ("none", "in", "out")
OFFICIAL = {
    r"blocks\.(\d+)\.ft_attn_module\.": r"attention.\1.",
    r"adaptmlp\.scale": "adapter_scale",
    r"(adaptmlp|ft_mlp_module)\.": "",
    r"down_proj": "adapter_downsample",
    r"up_proj": "adapter_upsample",
    r"adapter_layer_norm_before": "adapter_norm",
    r"^head\.0\.": "head.projection.0.",
    r"^head\.1\.": "head.last_layer.",
    r"^head\.(weight|bias)$": r"head.last_layer.\1",
}
"""Patterns of the names of learned tensors in ShoufaChen/AdaptFormer and OSU-MLB/ViT_PEFT_Vision, and ours."""


class Bottleneck(nn.Module):
    """The change that an adapter adds: scale up(dropout(activation(down(x)))), (..., D) to the same.

    `scale`: a constant, or None for a learned one that starts at 1. `norm`: a layer norm of its own on the input x
    ("in") or on the output ("out").
    """

    adapter_scale: Tensor

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        *,
        scale: float | None = 1.0,
        norm: str = "none",
        dropout: float = 0.0,
    ):
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm of an adapter", norm, NORMS)
        check_share("dropout", dropout)
        self.adapter_downsample, self.adapter_upsample = nn.Linear(width, hidden), nn.Linear(hidden, width)
        if norm != "none":
            self.adapter_norm = nn.LayerNorm(width)
        if scale is None:
            self.adapter_scale = nn.Parameter(torch.ones(1))
        self.activation, self.scale, self.norm, self.dropout = activation, scale, norm, dropout

    def forward(self, tokens: Tensor) -> Tensor:
        given = self.adapter_norm(tokens) if self.norm == "in" else tokens
        hidden = F.dropout(self.activation(self.adapter_downsample(given)), self.dropout, self.training)
        change = self.adapter_upsample(hidden) * (self.adapter_scale if self.scale is None else self.scale)
        return self.adapter_norm(change) if self.norm == "out" else change


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return learned tensors of adapters of the official codes under our names, and others as they are."""
    renamed = {}
    for name, tensor in state.items():
        for theirs, own in OFFICIAL.items():
            name = re.sub(theirs, own, name)
        renamed[name] = tensor
    return renamed
