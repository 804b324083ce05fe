"""Text features of prompts with learned contexts: one door to the plain and the fast way."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from promptvision.backbones.fast_text import PackedPrompts, known_views
from promptvision.backbones.towers import TextTower
from promptvision.errors import InputError, unknown

WAYS = ("auto", "fast", "plain")


class PromptEncoder(nn.Module):
    """Prompts of C classes, (C, L, D) embeddings in which `slots` (C, L) names the context vector at a place, or -1.

    `eot` (C,): the end tokens. `class_specific`: every class has contexts of its own. `way`: "plain" calls the
    tower's blocks untouched, "fast" computes what prompts share once (equal up to rounding), "auto" is fast wherever
    every part of the tower is known. `chunk`: prompts computed at once, 0 for all; with fewer, memory in training
    does not grow with the number of classes, at the price of a second forward pass.
    """

    embeddings: Tensor
    slots: Tensor
    eot: Tensor

    def __init__(
        self,
        tower: TextTower,
        embeddings: Tensor,
        slots: Tensor,
        eot: Tensor,
        *,
        class_specific: bool = False,
        way: str = "auto",
        chunk: int = 0,
        tile: int = 64,
    ):
        super().__init__()
        if way not in WAYS:
            raise unknown("way to encode text", way, WAYS)
        self.class_specific, self.way, self.chunk = class_specific, way, chunk
        embeddings, slots = (t[:, : int(eot.max()) + 1] if tower.causal else t for t in (embeddings, slots))
        self.packed = None if way == "plain" else PackedPrompts(embeddings, slots, eot, class_specific, tile)
        for name, tensor in (("embeddings", embeddings), ("slots", slots), ("eot", eot)):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, tower: TextTower, ctx: Tensor) -> Tensor:
        """Contexts (M, D), or (C, M, D) if class-specific, to features (C, E); with a leading R to (R, C, E)."""
        single = ctx.dim() == (3 if self.class_specific else 2)
        rows = ctx[None] if single else ctx
        features = self._fast(tower, rows)
        features = self._plain(tower, rows) if features is None else features
        return features[0] if single else features

    def _fast(self, tower: TextTower, ctx: Tensor) -> Tensor | None:
        views = known_views(tower)
        if views and self.packed:
            return self.packed(tower, views, ctx, self.chunk)
        if self.way == "fast":
            raise InputError(
                "this text tower has parts that the fast way does not know (no causal mask, foreign blocks, hooks or "
                "trainable weights); take way: plain"
            )
        return None

    def prompts(self, ctx: Tensor) -> Tensor:
        """Contexts (R, M, D), or (R, C, M, D) if class-specific, in their places: (R, C, L, D)."""
        which = self.slots.clamp(min=0)
        each = torch.arange(len(which), device=which.device)[:, None]
        vectors = ctx[:, each, which] if self.class_specific else ctx[:, which]
        return torch.where(self.slots[..., None] >= 0, vectors.to(self.embeddings.dtype), self.embeddings)

    def _plain(self, tower: TextTower, ctx: Tensor) -> Tensor:
        """Every prompt whole, `chunk` of them at once."""
        prompts, eot = self.prompts(ctx).flatten(0, 1), self.eot.repeat(len(ctx))
        size = self.chunk or len(prompts)
        again = size < len(prompts) and torch.is_grad_enabled()
        found = [
            checkpoint(tower.encode, *part, use_reentrant=False) if again else tower.encode(*part)
            for part in zip(prompts.split(size), eot.split(size), strict=True)
        ]
        return torch.cat(found).unflatten(0, (len(ctx), -1))
