"""The parts of many prompts that no context vector reaches, computed once per set of weights (fast_text.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.packing import CONSTANT, PackedLayout, visible

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every block, (..., H, tokens, D / H)."""


@dataclass(frozen=True)
class Places:
    """Where context vectors are among some tokens."""

    here: Tensor
    """(..., N, 1): whether the token is a context vector."""
    which: Tensor
    """(..., N): its index, 0 for other tokens."""

    @classmethod
    def of(cls, slots: Tensor) -> Places:
        """Return those of slots (..., N), -1 at other tokens."""
        return cls((slots >= 0)[..., None], slots.clamp(min=0))


@dataclass(frozen=True)
class Entry:
    """The tokens as they enter the first block, and the masks. No tensor of it depends on a block."""

    frozen: Tensor
    """(1, frozen, D): the trunk's tokens before the first context."""
    frozen_mask: Tensor
    fixed: Tensor
    """(T, F, D): the classes' tokens before any context."""
    fixed_mask: Tensor
    live: Tensor
    """(trunk - frozen, D): the trunk's other tokens, without context vectors."""
    live_places: Places
    live_mask: Tensor
    tokens: Tensor
    """(T, L, D): the tiles, without context vectors."""
    places: Places | None
    """Those in the tiles, if they contain any context."""
    classes: Tensor
    """(T, L): class of a token; any in padding."""
    mask: Tensor
    """(T, 1, L, trunk + F + L): what is added to the scores of a token."""
    end_mask: Tensor
    """(T, 1, E, trunk + F + L): the same for the end tokens."""
    rows: Tensor
    """(T, 1): 0 to T - 1."""

    @classmethod
    def of(cls, prompts: PackedLayout, position: Tensor, dtype: torch.dtype) -> Entry:
        """Compute them for position embeddings (L, D); `dtype`: that of queries and keys."""
        plan, count = prompts.plan, len(prompts.slots)
        known = torch.where(prompts.slots[..., None] >= 0, 0, prompts.embeddings).to(position.dtype)
        entering = known + position[: known.shape[1]]
        own, real = prompts.classes.clamp(max=count - 1), prompts.classes < count
        slots = torch.where(real, prompts.slots[own, prompts.position], CONSTANT)
        live = slice(plan.frozen, plan.trunk)
        rows = torch.arange(plan.tiles, device=position.device)[:, None]
        seen = _seen(prompts)
        frozen = seen.new_ones(plan.trunk, plan.trunk).tril()
        return cls(
            frozen=entering[:1, : plan.frozen],
            frozen_mask=additive(frozen[: plan.frozen, : plan.frozen], dtype),
            fixed=entering[prompts.fixed_class.clamp(min=0), prompts.fixed_position],
            fixed_mask=additive(_fixed_seen(prompts), dtype),
            live=entering[0, live],
            live_places=Places.of(prompts.slots[0, live]),
            live_mask=additive(frozen[live], dtype),
            tokens=torch.where(real[..., None], entering[own, prompts.position], 0),
            places=Places.of(slots) if bool((slots >= 0).any()) else None,
            classes=own,
            mask=additive(seen, dtype),
            end_mask=additive(seen[rows, 0, prompts.ends][:, None], dtype),
            rows=rows,
        )


@dataclass(frozen=True)
class Constants:
    """All that stays the same from step to step, for one set of weights."""

    entry: Entry
    frozen: Cache
    """Keys and values of the trunk's tokens before the first context, (1, H, frozen, D / H) per block."""
    fixed: Cache
    """Keys and values of the classes' tokens before any context, (T, H, F, D / H) per block; empty without any."""
    first: Tensor | None
    """(T, L, 3 D): query, key and value of the tiles at the first block, if they contain no context."""

    @classmethod
    def of(cls, entry: Entry, views: Sequence[BlockView]) -> Constants:
        """Compute them from the tower's current weights."""
        frozen = _run(views, entry.frozen, entry.frozen_mask)
        fixed = _run(views, entry.fixed, entry.fixed_mask, frozen) if entry.fixed.shape[1] else []
        first = None if entry.places else views[0].part(views[0].norm1(entry.tokens), 0, 3)
        return cls(entry, frozen, fixed, first)


def _run(views: Sequence[BlockView], tokens: Tensor, mask: Tensor, before: Cache | None = None) -> Cache:
    """Return keys and values of tokens (B, N, D) at every block; they attend to `before` and, masked, to each other."""
    cache: Cache = []
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


def _fixed_seen(prompts: PackedLayout) -> Tensor:
    """Return which tokens a fixed token attends to, (T, 1, F, frozen + F)."""
    classes = prompts.fixed_class
    width = classes.shape[1]
    alone = torch.where(classes < 0, -1 - torch.arange(width, device=classes.device), classes)
    own = visible(alone, alone).tril()
    return torch.cat([own.new_ones(len(own), width, prompts.plan.frozen), own], -1)[:, None]


def _seen(prompts: PackedLayout) -> Tensor:
    """Return which tokens a token of a tile attends to, (T, 1, L, trunk + F + L)."""
    classes = prompts.classes
    own = visible(classes, classes).tril()
    shared = own.new_ones(len(own), classes.shape[1], prompts.plan.trunk)
    return torch.cat([shared, visible(classes, prompts.fixed_class), own], -1)[:, None]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what attention adds to its scores: 0 where a token is seen, -inf elsewhere.

    Rows are 8 numbers apart, or a multiple: of other masks, fused attention on a GPU makes such a copy in every call.
    """
    *shape, width = seen.shape
    mask = torch.zeros(*shape, -(-width // 8) * 8, dtype=dtype, device=seen.device)[..., :width]
    return mask.masked_fill_(~seen, -torch.inf)


def join(*groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Concatenate keys and values of groups of tokens."""
    return torch.cat([key for key, _ in groups], -2), torch.cat([value for _, value in groups], -2)
