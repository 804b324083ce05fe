"""The layout of the prompts of many classes in which nothing is computed twice: a shared trunk, and packed tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONSTANT = -1
"""The slot of a token that is not a context vector."""


@dataclass(frozen=True)
class Plan:
    """Numbers of tokens, per class, that are shared, that never change, and that are computed in every step.

    Every prompt begins with `trunk` tokens that are the same for all classes; the first `frozen` of them come before
    any context, so their outputs never change. Then class c has `fixed[c]` constant tokens, whose outputs never change
    either (only if no context comes before them), and then `length[c]` tokens that are computed in every step, up to
    its end token. These are packed: they begin at `offset[c]` of tile `tile[c]`. There are `tiles` tiles of `width`.
    """

    trunk: int
    frozen: int
    fixed: list[int]
    length: list[int]
    tile: list[int]
    offset: list[int]
    tiles: int
    width: int


def plan(
    same: Tensor, slots: Tensor, eot: Tensor, class_specific: bool, tile: int = 64, changing: bool = False
) -> Plan:
    """Plan the packing of prompts with end tokens `eot` (C,) into tiles of `tile` tokens.

    `same` (L,): whether all classes have the same token there. `slots` (C, L): index of the context vector, or -1.
    `changing`: the tower's weights change from step to step; then no output of a class stays the same.
    """
    ends = eot.tolist()
    rows = slots.tolist()
    trunk = _leading([bool(s) and not (class_specific and rows[0][i] >= 0) for i, s in enumerate(same)][: min(ends)])
    frozen = _leading([slot == CONSTANT for slot in rows[0][:trunk]])
    fixed = [0] * len(rows)
    if frozen == trunk and not changing:
        fixed = [_leading([s == CONSTANT for s in row[trunk:end]]) for row, end in zip(rows, ends, strict=True)]
    length = [end + 1 - trunk - fix for end, fix in zip(ends, fixed, strict=True)]
    tiles, offsets, filled = first_fit(length, max(tile, *length))
    return Plan(trunk, frozen, fixed, length, tiles, offsets, len(filled), max(filled))


def first_fit(lengths: Sequence[int], capacity: int) -> tuple[list[int], list[int], list[int]]:
    """Pack by first-fit decreasing; return the tile and the offset of each length, and the filled part of each tile."""
    tile, offset, filled = [0] * len(lengths), [0] * len(lengths), list[int]()
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        home = next((t for t, used in enumerate(filled) if used + lengths[item] <= capacity), len(filled))
        if home == len(filled):
            filled.append(0)
        tile[item], offset[item] = home, filled[home]
        filled[home] += lengths[item]
    return tile, offset, filled


def _leading(flags: Sequence[bool]) -> int:
    """Count the flags that are set before the first that is not."""
    return next((index for index, flag in enumerate(flags) if not flag), len(flags))


@dataclass(frozen=True)
class Tiles:
    """The packed tokens as index tensors: T tiles of L tokens, with at most F fixed tokens and E end tokens each."""

    classes: Tensor
    """(T, L): class of a token; each padding has a number of its own, so that it attends to itself only."""
    position: Tensor
    """(T, L): position of a token in its prompt; 0 in padding."""
    fixed_class: Tensor
    """(T, F): class of a fixed token, or -1."""
    fixed_position: Tensor
    """(T, F)."""
    ends: Tensor
    """(T, E): places of the end tokens in their tile; 0 after the last."""
    order: Tensor
    """(C,): row of each class among the T E end tokens."""


def lay_out(plan: Plan) -> Tiles:
    """Return the tiles of a plan."""
    count, start = len(plan.length), plan.trunk
    padding = count + torch.arange(plan.tiles * plan.width).view(plan.tiles, plan.width)
    classes, position = padding.clone(), torch.zeros_like(padding)
    members: list[list[int]] = [[] for _ in range(plan.tiles)]
    for c, (t, o, n) in enumerate(zip(plan.tile, plan.offset, plan.length, strict=True)):
        classes[t, o : o + n] = c
        position[t, o : o + n] = start + plan.fixed[c] + torch.arange(n)
        members[t].append(c)
    fixed = [[(c, start + i) for c in tile for i in range(plan.fixed[c])] for tile in members]
    ends = [[plan.offset[c] + plan.length[c] - 1 for c in tile] for tile in members]
    most = max(map(len, ends))
    order = torch.empty(count, dtype=torch.long)
    for t, tile in enumerate(members):
        order[tile] = t * most + torch.arange(len(tile))
    fixed_class = _padded([[c for c, _ in tokens] for tokens in fixed], -1)
    fixed_position = _padded([[place for _, place in tokens] for tokens in fixed], 0)
    return Tiles(classes, position, fixed_class, fixed_position, _padded(ends, 0), order)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stack rows of different lengths, filled up with `value`."""
    width = max(map(len, rows))
    filled = [[*row, *[value] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long).view(len(rows), width)


def visible(rows: Tensor, columns: Tensor) -> Tensor:
    """Return whether two tokens of a tile belong to one class, (T, rows, columns)."""
    return rows[:, :, None] == columns[:, None, :]


class PackedLayout(nn.Module):
    """Buffers of the packed prompts of C classes: (C, L, D) embeddings with context vectors in their `slots` (C, L).

    `class_specific`: every class has contexts of its own. `tile`: tokens of a tile. `changing`: the tower's weights are
    learned; then nothing is cached from step to step, and gradients flow through everything.
    """

    embeddings: Tensor
    slots: Tensor
    classes: Tensor
    position: Tensor
    fixed_class: Tensor
    fixed_position: Tensor
    ends: Tensor
    order: Tensor

    def __init__(
        self, embeddings: Tensor, slots: Tensor, eot: Tensor,
        class_specific: bool, tile: int = 64, changing: bool = False,
    ):  # fmt: skip
        super().__init__()
        same = (slots == slots[:1]).all(0) & ((slots >= 0) | (embeddings == embeddings[:1]).all(-1)).all(0)
        self.plan = plan(same.cpu(), slots, eot, class_specific, tile, changing)
        for name, tensor in vars(lay_out(self.plan)).items():
            self.register_buffer(name, tensor.to(embeddings.device), persistent=False)
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("slots", slots, persistent=False)
        self.class_specific, self.changing = class_specific, changing
