"""Texts through a tower with low-rank changes of its weights, encoded in the plain or the fast way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from promptvision.backbones.fast_text import PackedPrompts, known_views
from promptvision.backbones.lora import LowRank, changed_blocks, changed_views
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.towers import TextTower


class ChangedTexts(nn.Module):
    """Texts as token embeddings (N, L, D) with their end tokens `eot` (N,), which are encoded again in every step.

    The fast way needs known blocks and no active dropout: dropout draws for every token of every text, so that texts
    share nothing.
    """

    embeddings: Tensor
    eot: Tensor

    def __init__(self, tower: TextTower, embeddings: Tensor, eot: Tensor):
        super().__init__()
        embeddings = embeddings[:, : int(eot.max()) + 1] if tower.causal else embeddings
        slots = torch.full_like(embeddings[..., 0], CONSTANT, dtype=torch.long)
        self.packed = PackedPrompts(embeddings, slots, eot, False, changing=True)
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("eot", eot, persistent=False)

    def forward(self, tower: TextTower, changes: Mapping[int, Mapping[str, LowRank]]) -> Tensor:
        """Encode the texts with `changes[i]` in block i into features (N, E)."""
        draws = any(change.draws for own in changes.values() for change in own.values())
        views = tower.compute.views(
            lambda: None if draws else known_views(tower),
            "the fast way needs a text tower of known causal blocks without dropout",
        )
        if not views:
            encode: Callable[..., Tensor] = tower.encode
            return encode(self.embeddings, self.eot, changed_blocks(tower.blocks, changes))
        own = changed_views(tower.blocks, changes)
        no_contexts = self.embeddings.new_empty(1, 0, self.embeddings.shape[-1])
        return self.packed(tower, [own.get(index, view) for index, view in enumerate(views)], [no_contexts])[0]
