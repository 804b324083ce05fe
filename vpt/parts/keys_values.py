"""Keys and values that blocks learn for each head, as E2VPT has them (arXiv:2307.13770, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptvision.backbones.prefix import Prefix


class KeysAndValues(nn.Module):
    """Keys and values (n, D) of a block, learned for each head: one tensor (heads, n, D / heads), or two."""

    def __init__(self, shape: tuple[int, int, int], separate: bool):
        super().__init__()
        self.names = [f"deep_QKV_embeddings{suffix}" for suffix in (("_K", "_V") if separate else ("",))]
        for name in self.names:
            start = nn.init.kaiming_uniform_(torch.empty(shape))
            self.register_parameter(name, nn.Parameter(start))

    def forward(self) -> Prefix:
        found = [getattr(self, name).transpose(0, 1).flatten(1) for name in self.names]
        return found[0], found[-1]


def joined(own: Tensor, others: Tensor) -> Tensor:
    """Join (n, D) and (P, D), or (B, P, D), along their tokens."""
    return torch.cat([own.to(others.dtype).expand(*others.shape[:-2], -1, -1), others], dim=-2)
