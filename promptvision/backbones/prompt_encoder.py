"""Text features of prompts with learned contexts: one door to the plain and the fast way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from promptvision.backbones.fast_text import PackedPrompts, known_views
from promptvision.backbones.towers import TextTower
from promptvision.errors import InputError


class PromptEncoder(nn.Module):
    """Prompts of C classes, (C, L, D) embeddings in which `slots` (C, L) names the context vector at a place, or -1.

    `eot` (C,): the end tokens. `class_specific`: every class has contexts of its own. `tile`: tokens that are packed
    together in the fast way. Which way is used, and in what chunks, is up to the tower's `compute`.
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
        tile: int = 64,
    ):
        super().__init__()
        self.class_specific = class_specific
        embeddings, slots = (t[:, : int(eot.max()) + 1] if tower.causal else t for t in (embeddings, slots))
        self.packed = PackedPrompts(embeddings, slots, eot, class_specific, tile)
        for name, tensor in (("embeddings", embeddings), ("slots", slots), ("eot", eot)):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, tower: TextTower, ctx: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
        """Contexts (M, D), or (C, M, D) if class-specific, to features (C, E); with a leading R to (R, C, E).

        `deep[i]`, shaped as `ctx`, takes the contexts' places at the entrance of block i + 1 (deep language prompts;
        MaPLe, arXiv:2210.03117, section 3.2.1); from the last of them on, what has become of them flows on.
        """
        if len(deep) >= max(1, len(tower.blocks)):
            raise InputError(f"{len(deep) + 1} layers of prompts; this text tower shows {len(tower.blocks)} blocks")
        single = ctx.dim() == (3 if self.class_specific else 2)
        layers = [layer[None] if single else layer for layer in (ctx, *deep)]
        views = None if tower.compute.way == "plain" else known_views(tower)
        if views is None and tower.compute.way == "fast":
            raise InputError(
                "this text tower has parts that the fast way does not know (no causal mask, foreign blocks, hooks or "
                "trainable weights); set COMPUTE.WAY to auto or plain"
            )
        features = self.packed(tower, views, layers, tower.compute.chunk) if views else self._plain(tower, layers)
        return features[0] if single else features

    def prompts(self, ctx: Tensor) -> Tensor:
        """Contexts (R, M, D), or (R, C, M, D) if class-specific, in their places: (R, C, L, D)."""
        rows, count = len(ctx), len(self.slots)
        every = torch.arange(rows * count, device=self.slots.device)
        return self._placed(self.embeddings.repeat(rows, 1, 1), ctx, every).unflatten(0, (rows, count))

    def _placed(self, tokens: Tensor, ctx: Tensor, part: Tensor) -> Tensor:
        """Tokens (N, L, D) of prompts `part` (N,), of all R C, with the contexts (R, ...) in their places."""
        row, own = (part // len(self.slots))[:, None], part % len(self.slots)
        slots = self.slots[own, : tokens.shape[1]]
        which = slots.clamp(min=0)
        vectors = ctx[row, own[:, None], which] if self.class_specific else ctx[row, which]
        return torch.where(slots[..., None] >= 0, vectors.to(tokens.dtype), tokens)

    def _plain(self, tower: TextTower, layers: Sequence[Tensor]) -> Tensor:
        """Every prompt whole, `tower.compute.chunk` of them at once."""
        ctx, *deep = layers
        prompts, eot = self.prompts(ctx).flatten(0, 1), self.eot.repeat(len(ctx))
        size = tower.compute.chunk or len(prompts)
        again = size < len(prompts) and torch.is_grad_enabled()
        encode: Callable[..., Tensor] = tower.encode
        found = []
        for part in torch.arange(len(prompts), device=eot.device).split(size):
            work = (prompts[part], eot[part], *([self._entered(tower, deep, part)] if deep else []))
            found.append(checkpoint(encode, *work, use_reentrant=False) if again else encode(*work))
        return torch.cat(found).unflatten(0, (len(ctx), -1))

    def _entered(self, tower: TextTower, deep: Sequence[Tensor], part: Tensor) -> list[Callable[..., Tensor]]:
        """The tower's blocks; deep prompts enter blocks 1 to `len(deep)` first."""

        def entered(block: nn.Module, vectors: Tensor) -> Callable[..., Tensor]:
            return lambda tokens, **options: block(self._placed(tokens, vectors, part), **options)

        first, *others = tower.blocks
        prompted = [entered(block, vectors) for block, vectors in zip(others, deep, strict=False)]
        return [first, *prompted, *others[len(deep) :]]
