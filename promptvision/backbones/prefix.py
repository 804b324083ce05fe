"""Prefix tuning of an image tower: learned keys and values before those of the tokens.

The form of Li and Liang (2021, arXiv:2101.00190), which DualPrompt (arXiv:2204.04799, section 4.2) and CODA-Prompt
use for vision: a prefix is added after the projection, so that attention sees it unchanged, and it has no output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError, counted

Prefix = tuple[Tensor, Tensor]
"""Keys and values, each (P, D), the same for every image, or (B, P, D)."""


def prefixed_tokens(
    tower: ImageTower, tokens: Tensor, prefixes: Sequence[Prefix | None], first: int | None = None
) -> Tensor:
    """Run the blocks on tokens (B, N, D) that enter the first one (`tower.enter(tower.embed(images))`).

    `prefixes[i]` is for block i, None if it has none; blocks beyond the list have none. `first`: how many tokens
    are returned, None for all.
    """
    if len(prefixes) > tower.depth:
        raise InputError(
            f"{counted(len(prefixes), 'layer')} of prefixes; backbone {tower.name!r} has "
            f"{counted(tower.depth, 'block')}"
        )
    blocks: list[Callable[..., Tensor]] = list(tower.blocks)
    for index, prefix in enumerate(prefixes):
        if prefix is not None:
            keys, values = (part.to(tokens.dtype) for part in prefix)
            last = index == tower.depth - 1 and tower.compute.way != "plain"
            wanted = first if last else None
            blocks[index] = partial(attend, known_block(tower, index), keys=keys, values=values, first=wanted)
    return tower.run(tokens, blocks=blocks, first=first)


def prefixed_features(tower: ImageTower, images: Tensor, prefixes: Sequence[Prefix | None]) -> Tensor:
    """Encode images (B, 3, H, W) with prefixes into features (B, E)."""
    tokens = tower.enter(tower.embed(images))
    return tower.pool(prefixed_tokens(tower, tokens, prefixes, tower.pooled))


def attend(view: BlockView, tokens: Tensor, keys: Tensor, values: Tensor, first: int | None = None) -> Tensor:
    """Run a block whose attention also sees projected keys and values, (P, D) or (B or 1, P, D): (B, N, D) to same.

    `first`: how many tokens are computed, None for all.
    """
    normed, batch = view.norm1(tokens), tokens.shape[0]
    (query,) = view.split(view.part(normed[:, :first], 0, 1), 1)  # alone: else its storage keeps key and value alive
    key, value = view.split(view.part(normed, 1, 3), 2)
    own_keys, own_values = (view.split(part, 1)[0].expand(batch, -1, -1, -1) for part in (keys, values))
    key, value = torch.cat([own_keys, key], dim=-2), torch.cat([own_values, value], dim=-2)
    return view.finish(F.scaled_dot_product_attention(query, key, value), tokens[:, :first])


def check_blocks(tower: ImageTower) -> None:
    """Raise InputError for a tower with a block whose attention prefixes cannot reach."""
    for index in range(tower.depth):
        known_block(tower, index)


def known_block(tower: ImageTower, index: int, readers: str = "prefixes") -> BlockView:
    """Return the view of block `index`, or raise InputError, which says that `readers` reach into its attention."""
    view = tower.view(index)
    if view is None:
        kind = type(tower.blocks[index]).__name__
        raise InputError(
            f"block {index} of backbone {tower.name!r} ({kind}, or a part of it) is not known: {readers} need to "
            f"reach into its attention; take prompt tokens instead, or a plain ViT"
        )
    return view
