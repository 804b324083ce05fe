"""The parts of many prompts that no context vector reaches, computed once per set of weights (fast_text.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.packing import CONSTANT, PackedLayout, visible
from promptvision.backbones.text import OpenClipText

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every block, (..., H, tokens, D / H)."""


@dataclass(frozen=True)
class Constants:
    """Tensors that stay the same from step to step, for one set of weights."""

    frozen: Cache
    """Keys and values of the trunk's tokens before the first context, (1, H, frozen, D / H) per block."""
    fixed: Cache
    """Keys and values of the classes' tokens before any context, (T, H, F, D / H) per block."""
    live: Tensor
    """(trunk - frozen, D): the trunk's other tokens as they enter, without context vectors."""
    tokens: Tensor
    """(T, L, D): the tiles as they enter, without context vectors."""
    slots: Tensor
    """(T, L): context vector of a tile's token, or -1."""
    contexts_inside: bool
    first: Tensor | None
    """(T, L, 3 D): query, key and value of the tiles at the first block, if they contain no context."""
    mask: Tensor
    """(T, 1, L, trunk + F + L): the tokens that a token attends to."""
    end_mask: Tensor
    """(T, 1, E, trunk + F + L): the tokens that an end token attends to."""

    @classmethod
    def of(cls, prompts: PackedLayout, tower: OpenClipText, views: Sequence[BlockView]) -> Constants:
        """Compute them from the tower's current weights."""
        plan, count = prompts.plan, len(prompts.slots)
        position = tower.positional_embedding
        known = torch.where(prompts.slots[..., None] >= 0, 0, prompts.embeddings).to(position.dtype)
        entering = known + position[: known.shape[1]]
        own = prompts.classes.clamp(max=count - 1)
        real = (prompts.classes < count)[..., None]
        tokens = torch.where(real, entering[own, prompts.position], 0)
        slots = torch.where(real[..., 0], prompts.slots[own, prompts.position], CONSTANT)
        frozen = _run(views, entering[:1, : plan.frozen], None)
        fixed = _run_fixed(views, entering, prompts, frozen)
        inside = bool((slots >= 0).any())
        first = None if inside else views[0].part(views[0].norm1(tokens), 0, 3)
        mask = _tile_mask(prompts, plan.trunk)
        each = torch.arange(plan.tiles, device=mask.device)[:, None]
        live = entering[0, plan.frozen : plan.trunk]
        return cls(frozen, fixed, live, tokens, slots, inside, first, mask, mask[each, 0, prompts.ends][:, None])


def _run(views: Sequence[BlockView], tokens: Tensor, mask: Tensor | None, before: Cache | None = None) -> Cache:
    """Return keys and values of tokens (B, N, D) at every block; they attend to `before` and, masked, to each other."""
    cache: Cache = []
    mask = causal(tokens.shape[1], tokens.shape[1], tokens.device) if mask is None else mask
    for index, view in enumerate(views):
        query, key, value = view.split(view.part(view.norm1(tokens), 0, 3), 3)
        cache.append((key, value))
        if index == len(views) - 1:
            break
        if before:
            earlier = before[index][0].expand(len(tokens), -1, -1, -1), before[index][1].expand(len(tokens), -1, -1, -1)
            key, value = join(earlier, (key, value))
        tokens = view.finish(F.scaled_dot_product_attention(query, key, value, attn_mask=mask), tokens)
    return cache


def _run_fixed(views: Sequence[BlockView], entering: Tensor, prompts: PackedLayout, frozen: Cache) -> Cache:
    """Return keys and values of the fixed tokens of every tile."""
    classes, position = prompts.fixed_class, prompts.fixed_position
    width = classes.shape[1]
    alone = torch.where(classes < 0, -1 - torch.arange(width, device=classes.device), classes)
    own = visible(alone, alone) & causal(width, width, classes.device)
    mask = torch.cat([own.new_ones(len(own), width, prompts.plan.frozen), own], -1)[:, None]
    return _run(views, entering[classes.clamp(min=0), position], mask, frozen)


def _tile_mask(prompts: PackedLayout, trunk: int) -> Tensor:
    """Return which tokens a token of a tile attends to, (T, 1, L, trunk + F + L)."""
    classes = prompts.classes
    own = visible(classes, classes) & causal(classes.shape[1], classes.shape[1], classes.device)
    shared = own.new_ones(len(own), classes.shape[1], trunk)
    return torch.cat([shared, visible(classes, prompts.fixed_class), own], -1)[:, None]


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return a causal mask (queries, keys) in which the last query sees every key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenate keys and values of two groups of tokens."""
    return torch.cat([first[0], second[0]], -2), torch.cat([first[1], second[1]], -2)
