"""Prompted image encoding, the exact fast way: nothing is computed that the feature does not depend on.

Prompts that the next block replaces give keys and values only, computed once for the whole batch where they are the
same for every image; in the last block only the pooled token is computed, and there the keys' and values' weights
are folded into its one query and its one average. Equal to the plain way up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView, view_block
from promptvision.backbones.image import prompt_edits, remove, run_blocks
from promptvision.backbones.prefix import attend
from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError


def prompted_features(
    tower: ImageTower,
    images: Tensor,
    prompts: Tensor,
    deep_prompts: Sequence[Tensor] = (),
    *,
    start: int = 0,
    keep: bool = True,
) -> Tensor:
    """Images (B, 3, H, W) to features (B, E), the prompts' own outputs left out of the pool.

    `prompts` (P, D) or (B, P, D) enter block `start`, `deep_prompts[i]` replace them at block `start` + 1 + i; then
    they flow on, or are removed where `keep` is false (`prompt_edits`). The fast way is used wherever every block from
    `start` on is known, unless `tower.compute` says otherwise.
    """
    layers = [prompts, *deep_prompts]
    views = None if tower.compute.way == "plain" else known_blocks(tower, start)
    if views is None and tower.compute.way == "fast":
        raise InputError(
            f"backbone {tower.name!r} has blocks that the fast way does not know; set COMPUTE.WAY to auto or plain"
        )
    if views is None:
        tokens = run_blocks(tower, images, prompt_edits(tower, layers, start, keep))
        there = keep or start + len(layers) >= tower.depth
        return tower.pool(remove(tokens, tower.prefix, prompts.shape[-2]) if there else tokens)
    return _fast(tower, views, images, layers, start, keep)


def known_blocks(tower: ImageTower, start: int = 0) -> list[BlockView] | None:
    """Views of the blocks from `start` on, or None if any of them has parts that are not known."""
    views = [view_block(block) for block in list(tower.blocks)[start:]]
    return None if None in views else views  # type: ignore[return-value]


def _fast(
    tower: ImageTower, views: Sequence[BlockView], images: Tensor, layers: Sequence[Tensor], start: int, keep: bool
) -> Tensor:
    tokens = tower.enter(tower.embed(images))
    for block in list(tower.blocks)[:start]:
        tokens = block(tokens)
    prompts = tokens[:1, :0]
    for index, view in enumerate(views):
        if index < len(layers):
            prompts = _entering(tower, layers[index], tokens, first=start + index == 0)
        final, replaced = index == len(views) - 1, index + 1 < len(layers)
        if final and tower.pools_first:
            tokens = _first_only(view, tokens, prompts)
        elif keep and not final and not replaced:
            tokens, prompts = _carry(view, tokens, prompts)
        else:
            tokens, prompts = _attend_only(view, tokens, prompts), prompts[:, :0]
    return tower.pool(tokens)


def _entering(tower: ImageTower, prompts: Tensor, tokens: Tensor, first: bool) -> Tensor:
    """(P, D) to (1, P, D), (B, P, D) as it is, in the tokens' precision, as the block is to see them."""
    prompts = (prompts if prompts.dim() == 3 else prompts[None]).to(tokens.dtype)
    return tower.enter(prompts) if first else prompts


def _attend_only(view: BlockView, tokens: Tensor, prompts: Tensor) -> Tensor:
    """A block whose prompt outputs nobody reads."""
    keys, values = view.part(view.norm1(prompts), 1, 3).chunk(2, dim=-1)
    return attend(view, tokens, keys, values)


def _first_only(view: BlockView, tokens: Tensor, prompts: Tensor) -> Tensor:
    """The first token's output alone, (B, 1, D): q (W x) = (q W) x and the average of W x is W (average of x)."""
    normed = view.norm1(tokens)
    seen = torch.cat([view.norm1(prompts).expand(len(tokens), -1, -1), normed], dim=1)
    (query,) = view.split(view.part(normed[:, :1], 0, 1), 1)
    attended = view.absorbed(query, seen)
    return view.finish(attended, tokens[:, :1])


def _carry(view: BlockView, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """A block whose prompt outputs go on to the next."""
    parts = view.part(view.norm1(tokens), 0, 3), view.part(view.norm1(prompts), 0, 3)
    joined = torch.cat([parts[0], parts[1].expand(len(tokens), -1, -1)], dim=1)
    query, key, value = view.split(joined, 3)
    entering = torch.cat([tokens, prompts.expand(len(tokens), -1, -1)], dim=1)
    left = view.finish(F.scaled_dot_product_attention(query, key, value), entering)
    return left[:, : tokens.shape[1]], left[:, tokens.shape[1] :]
