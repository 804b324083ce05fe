"""Prompted image encoding, the plain way: tokens are put in, every block is called as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptvision.backbones.towers import ImageTower


def prompted_tokens(tower: ImageTower, images: Tensor, prompts: Tensor, deep_prompts: Sequence[Tensor] = ()) -> Tensor:
    """Tokens (B, prefix + P + patches, D) after the last block, before the final norm.

    `prompts` (P, D) or (B, P, D) go behind the prefix tokens, without position; `deep_prompts[i]` of the same shape
    replaces them at the entrance of block i + 1 (VPT, arXiv:2203.12119, section 3.2). After the last deep prompt
    they flow on.
    """
    tokens = tower.enter(insert(tower.embed(images), prompts, tower.prefix))
    for index, block in enumerate(tower.blocks):
        if 0 < index <= len(deep_prompts):
            tokens = replace(tokens, deep_prompts[index - 1], tower.prefix)
        tokens = block(tokens)
    return tokens


def insert(tokens: Tensor, prompts: Tensor, at: int) -> Tensor:
    """Prompts (P, D) or (B, P, D) put before token `at` of (B, N, D)."""
    batch = prompts.to(tokens.dtype).expand(len(tokens), -1, -1)
    return torch.cat([tokens[:, :at], batch, tokens[:, at:]], dim=1)


def replace(tokens: Tensor, prompts: Tensor, at: int) -> Tensor:
    """The P tokens from `at` on, exchanged for prompts (P, D) or (B, P, D)."""
    return insert(remove(tokens, at, prompts.shape[-2]), prompts, at)


def remove(tokens: Tensor, at: int, count: int) -> Tensor:
    """(B, N, D) without the `count` tokens from `at` on."""
    return torch.cat([tokens[:, :at], tokens[:, at + count :]], dim=1)
