"""Prompted image encoding, the exact fast way: nothing is computed that the feature does not depend on.

Prompts that the next block replaces give keys and values only, computed once for the whole batch where they are the
same for every picture; in the last block only the pooled token is computed. Equal to the plain way up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView, view_block
from promptvision.backbones.image import prompted_tokens, remove
from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError, unknown

WAYS = ("auto", "fast", "plain")


def prompted_features(
    tower: ImageTower, images: Tensor, prompts: Tensor, deep_prompts: Sequence[Tensor] = (), way: str = "auto"
) -> Tensor:
    """Pictures (B, 3, H, W) to features (B, E); prompts as in `prompted_tokens`, their outputs left out of the pool.

    `way`: "plain" calls the tower's blocks untouched, "fast" takes them apart, "auto" is fast wherever every block
    is known.
    """
    if way not in WAYS:
        raise unknown("way to encode images", way, WAYS)
    views = None if way == "plain" else known_blocks(tower)
    if way == "fast" and views is None:
        raise InputError(f"backbone {tower.name!r} has blocks that the fast way does not know; take way: plain")
    if views is None:
        tokens = prompted_tokens(tower, images, prompts, deep_prompts)
        return tower.pool(remove(tokens, tower.prefix, prompts.shape[-2]))
    return _fast(tower, views, images, prompts, deep_prompts)


def known_blocks(tower: ImageTower) -> list[BlockView] | None:
    """Views of all blocks, or None if any of them has parts that are not known."""
    views = [view_block(block) for block in tower.blocks]
    return None if None in views else views  # type: ignore[return-value]


def _fast(
    tower: ImageTower, views: Sequence[BlockView], images: Tensor, prompts: Tensor, deep_prompts: Sequence[Tensor]
) -> Tensor:
    tokens = tower.enter(tower.embed(images))
    prompts = tower.enter(_batched(prompts, tokens))
    last = len(views) - 1
    for index, view in enumerate(views):
        if 0 < index <= len(deep_prompts):
            prompts = _batched(deep_prompts[index - 1], tokens)
        if index == last or index < len(deep_prompts):
            tokens = _attend_only(view, tokens, prompts, 1 if index == last and tower.pools_first else None)
        else:
            tokens, prompts = _carry(view, tokens, prompts)
    return tower.pool(tokens)


def _batched(prompts: Tensor, tokens: Tensor) -> Tensor:
    """(P, D) to (1, P, D), (B, P, D) as it is, in the tokens' precision."""
    return (prompts if prompts.dim() == 3 else prompts[None]).to(tokens.dtype)


def _attend_only(view: BlockView, tokens: Tensor, prompts: Tensor, first: int | None) -> Tensor:
    """A block whose prompt outputs nobody reads; `first`: how many tokens are computed, None for all."""
    normed, batch = view.norm1(tokens), len(tokens)
    prompt_keys, prompt_values = (
        t.expand(batch, -1, -1, -1) for t in view.split(view.part(view.norm1(prompts), 1, 3), 2)
    )
    if first is None:
        query, key, value = view.split(view.part(normed, 0, 3), 3)
    else:
        key, value = view.split(view.part(normed, 1, 3), 2)
        (query,) = view.split(view.part(normed[:, :first], 0, 1), 1)
    keys, values = torch.cat([prompt_keys, key], dim=-2), torch.cat([prompt_values, value], dim=-2)
    return view.finish(F.scaled_dot_product_attention(query, keys, values), tokens[:, :first])


def _carry(view: BlockView, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """A block whose prompt outputs go on to the next."""
    parts = view.part(view.norm1(tokens), 0, 3), view.part(view.norm1(prompts), 0, 3)
    joined = torch.cat([parts[0], parts[1].expand(len(tokens), -1, -1)], dim=1)
    query, key, value = view.split(joined, 3)
    entering = torch.cat([tokens, prompts.expand(len(tokens), -1, -1)], dim=1)
    left = view.finish(F.scaled_dot_product_attention(query, key, value), entering)
    return left[:, : tokens.shape[1]], left[:, tokens.shape[1] :]
