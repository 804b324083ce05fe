"""Texts through a tower with low-rank changes of its weights: one door to the plain and the fast way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from promptvision.backbones.fast_text import PackedPrompts, known_views
from promptvision.backbones.lora import LowRank, changed_blocks, changed_views
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.towers import TextTower
from promptvision.errors import InputError


class ChangedTexts(nn.Module):
    """Texts as token embeddings (N, L, D) with their end tokens `eot` (N,), to be encoded again in every step.

    The fast way is open where every part of the tower is known and no dropout is at work: dropout draws for every
    token of every text, so that they share nothing.
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
        """Features (N, E), with `changes[i]` in block i."""
        draws = any(change.draws for own in changes.values() for change in own.values())
        views = None if draws or tower.compute.way == "plain" else known_views(tower)
        if views:
            own = changed_views(tower.blocks, changes)
            no_contexts = self.embeddings.new_empty(1, 0, self.embeddings.shape[-1])
            return self.packed(tower, [own.get(index, view) for index, view in enumerate(views)], [no_contexts])[0]
        if tower.compute.way == "fast":
            raise InputError(
                "the fast way is open to texts through known causal blocks without dropout only; set COMPUTE.WAY to "
                "auto or plain"
            )
        encode: Callable[..., Tensor] = tower.encode
        return encode(self.embeddings, self.eot, changed_blocks(tower.blocks, changes))
