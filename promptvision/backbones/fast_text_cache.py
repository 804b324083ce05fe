"""The parts of many prompts that no context vector reaches, computed once per set of weights (fast_text.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.packing import CONSTANT, PackedLayout, visible
from promptvision.backbones.pinning import Weights
from promptvision.backbones.text import OpenClipText

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every block, (..., H, tokens, D / H)."""
T = TypeVar("T")


@dataclass(frozen=True)
class Places:
    """The places of context vectors among some tokens."""

    here: Tensor
    """(..., N, 1): whether the token is a context vector."""
    which: Tensor
    """(..., N): its index, 0 for other tokens."""
    later: dict[int, Places] = field(default_factory=dict)
    """Results of `after`, by its `skip`."""

    @classmethod
    def of(cls, slots: Tensor) -> Places:
        """Return those of slots (..., N), -1 at other tokens."""
        return cls((slots >= 0)[..., None], slots.clamp(min=0))

    def after(self, skip: int) -> Places:
        """Return the places of the context vectors after the first `skip`, counted from there."""
        if skip and skip not in self.later:
            with torch.inference_mode(False):  # a later step may need them for backward
                self.later[skip] = Places.of(torch.where(self.here[..., 0], self.which, CONSTANT) - skip)
        return self.later[skip] if skip else self


@dataclass(frozen=True)
class Trunk:
    """The common beginning of all prompts as it enters the first block, and the masks. Nothing depends on a block."""

    frozen: Tensor
    """(1, frozen, D): the tokens before the first context."""
    frozen_mask: Tensor
    live: Tensor
    """(trunk - frozen, D): the other tokens, without context vectors."""
    live_places: Places
    live_mask: Tensor

    @classmethod
    def of(cls, prompts: PackedLayout, tower: OpenClipText) -> Trunk:
        """Compute it from the tower's embeddings."""
        plan, dtype = prompts.plan, precision(tower)
        position = torch.arange(plan.trunk, device=prompts.slots.device)
        tokens = prompts.entering(tower, torch.zeros_like(position), position)
        seen = torch.ones(plan.trunk, plan.trunk, dtype=torch.bool, device=position.device).tril()
        return cls(
            frozen=tokens[None, : plan.frozen],
            frozen_mask=additive(seen[: plan.frozen, : plan.frozen], dtype),
            live=tokens[plan.frozen :],
            live_places=Places.of(prompts.slots[0, plan.frozen : plan.trunk]),
            live_mask=additive(seen[plan.frozen :], dtype),
        )


@dataclass(frozen=True)
class Entry:
    """The tokens of T tiles as they enter the first block, and the masks. No tensor of it depends on a block."""

    fixed: Tensor
    """(T, F, D): the classes' tokens before any context."""
    fixed_mask: Tensor
    tokens: Tensor
    """(T, L, D): the tiles, without context vectors."""
    places: Places | None
    """Those in the tiles, if any tile contains a context."""
    classes: Tensor
    """(T, L): class of a token; any in padding."""
    mask: Tensor
    """(T, 1, L, trunk + F + L): what is added to the scores of a token."""
    end_mask: Tensor
    """(T, 1, E, trunk + F + L): the same for the end tokens."""
    ends: Tensor
    """(T, E): places of the end tokens."""
    rows: Tensor
    """(T, 1): 0 to T - 1."""

    @classmethod
    def of(cls, prompts: PackedLayout, tower: OpenClipText, tiles: slice) -> Entry:
        """Compute it from the tower's embeddings."""
        classes, position, dtype = prompts.classes[tiles], prompts.position[tiles], precision(tower)
        count, ends = len(prompts.slots), prompts.ends[tiles]
        own, real = classes.clamp(max=count - 1), classes < count
        fixed_class, fixed_position = prompts.fixed_class[tiles], prompts.fixed_position[tiles]
        rows = torch.arange(len(classes), device=classes.device)[:, None]
        seen = _seen(classes, fixed_class, prompts.plan.trunk)
        slots = torch.where(real, prompts.slots[own, position], CONSTANT)
        return cls(
            fixed=prompts.entering(tower, fixed_class.clamp(min=0), fixed_position),
            fixed_mask=additive(_fixed_seen(fixed_class, prompts.plan.frozen), dtype),
            tokens=torch.where(real[..., None], prompts.entering(tower, own, position), 0),
            places=Places.of(slots) if prompts.contexts_inside else None,
            classes=own,
            mask=additive(seen, dtype),
            end_mask=additive(seen[rows, 0, ends][:, None], dtype),
            ends=ends,
            rows=rows,
        )


@dataclass(frozen=True)
class Constants:
    """All of T tiles that stays the same from step to step, for one set of weights."""

    entry: Entry
    fixed: Cache
    """Keys and values of the classes' tokens before any context, (T, H, F, D / H) per block; empty without any."""
    first: Tensor | None
    """(T, L, 3 D): query, key and value of the tiles at the first block, if they contain no context."""

    @classmethod
    def of(cls, entry: Entry, views: Sequence[BlockView], frozen: Cache) -> Constants:
        """Compute them from the tower's current weights, and keys and values of the trunk's frozen tokens."""
        fixed = run(views, entry.fixed, entry.fixed_mask, frozen) if entry.fixed.shape[1] else []
        first = None if entry.places else views[0].part(views[0].norm1(entry.tokens), 0, 3)
        return cls(entry, fixed, first)


class Kept:
    """Constants by their name, computed again if a weight, its place or its precision has changed."""

    def __init__(self) -> None:
        self.weights: Weights | None = None
        self.found: dict[tuple[object, ...], Any] = {}

    def get(self, tower: OpenClipText, name: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return what is kept by this name, at first what `make` returns."""
        weights, position = tower.weights, tower.positional_embedding
        if self.weights is not weights:
            if self.weights != weights:
                self.found = {}
            self.weights = weights
        place = (*name, precision(tower), position.dtype, position.device)
        if place not in self.found:
            with torch.inference_mode(False), torch.no_grad():  # a later step may need them for backward
                self.found[place] = make()
        found: T = self.found[place]
        return found


def precision(tower: OpenClipText) -> torch.dtype:
    """Return the type of queries and keys."""
    position = tower.positional_embedding
    kind = position.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else position.dtype


def run(views: Sequence[BlockView], tokens: Tensor, mask: Tensor, before: Cache | None = None) -> Cache:
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


def _fixed_seen(classes: Tensor, frozen: int) -> Tensor:
    """Return which tokens a fixed token attends to, (T, 1, F, frozen + F)."""
    width = classes.shape[1]
    alone = torch.where(classes < 0, -1 - torch.arange(width, device=classes.device), classes)
    own = visible(alone, alone).tril()
    return torch.cat([own.new_ones(len(own), width, frozen), own], -1)[:, None]


def _seen(classes: Tensor, fixed_class: Tensor, trunk: int) -> Tensor:
    """Return which tokens a token of a tile attends to, (T, 1, L, trunk + F + L)."""
    own = visible(classes, classes).tril()
    shared = own.new_ones(len(own), classes.shape[1], trunk)
    return torch.cat([shared, visible(classes, fixed_class), own], -1)[:, None]


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
