"""The layout of the prompts of many classes in which nothing is computed twice: a shared trunk, and packed tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptvision.backbones.text import OpenClipText

CONSTANT = -1
"""The slot of a token that is not a context vector."""
WIDEST = 128
"""Up to this width of a tile, unless a class needs more; the mask grows with the square of it."""


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


def plan(same: Tensor, slots: Tensor, eot: Tensor, class_specific: bool, changing: bool = False) -> Plan:
    """Plan the packing of prompts with end tokens `eot` (C,) into tiles.

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
    return Plan(trunk, frozen, fixed, length, *pack(length, trunk))


def pack(lengths: Sequence[int], trunk: int = 0) -> tuple[list[int], list[int], int, int]:
    """Pack into tiles of the best width; return tile and offset of each length, number and width of the tiles.

    The best has the least tiles x width, where a token of the trunk counts as the ninth of one: each tile has a copy of
    its key and value, 2 of about 18 vectors per token and block that autograd keeps.
    """
    counts, longest = Counter(lengths), max(lengths)
    choices = [fill(counts, capacity) for capacity in range(longest, max(longest, WIDEST) + 1)]
    best = min(choices, key=lambda tiles: tiles.total() * (9 * max(map(sum, tiles)) + trunk))
    waiting = {length: iter([i for i, each in enumerate(lengths) if each == length]) for length in counts}
    tile, offset = [0] * len(lengths), [0] * len(lengths)
    for number, held in enumerate(best.elements()):
        for place, length in enumerate(held):
            item = next(waiting[length])
            tile[item], offset[item] = number, sum(held[:place])
    return tile, offset, best.total(), max(map(sum, best))


def fill(counts: Mapping[int, int], capacity: int) -> Counter[tuple[int, ...]]:
    """Pack `counts[n]` items of each length n by best-fit decreasing; return how many tiles hold items (n, m, ...).

    The work grows with the number of different lengths and tiles, not with that of items.
    """
    tiles: Counter[tuple[int, ...]] = Counter({(): sum(counts.values())})
    for length in sorted(counts, reverse=True):
        left = counts[length]
        for held in sorted(tiles, key=sum, reverse=True):
            room = (capacity - sum(held)) // length
            while tiles[held] and (most := min(room, left)):
                number = min(tiles[held], left // most)
                tiles[held] -= number
                tiles[held + (length,) * most] += number
                left -= number * most
    return Counter({held: number for held, number in tiles.items() if held and number})


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
    length, fixed, tile, offset = (torch.tensor(each) for each in (plan.length, plan.fixed, plan.tile, plan.offset))
    classes = len(length) + torch.arange(plan.tiles * plan.width)
    position = torch.zeros_like(classes)
    owner, step = _spread(length)
    place = (tile * plan.width + offset)[owner] + step
    classes[place], position[place] = owner, plan.trunk + fixed[owner] + step

    by_tile = tile.argsort(stable=True)
    ends, column = _table(tile[by_tile], (offset + length - 1)[by_tile], plan.tiles, 0)
    order = torch.empty_like(tile)
    order[by_tile] = tile[by_tile] * ends.shape[1] + column
    owner, step = _spread(fixed[by_tile])
    owner = by_tile[owner]
    fixed_class, _ = _table(tile[owner], owner, plan.tiles, -1)
    fixed_position, _ = _table(tile[owner], plan.trunk + step, plan.tiles, 0)
    shape = plan.tiles, plan.width
    return Tiles(classes.view(shape), position.view(shape), fixed_class, fixed_position, ends, order)


def _spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for `counts[i]` entries of every i one after the other, their i and their number among those of i."""
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    return owner, torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]


def _table(tiles: Tensor, values: Tensor, count: int, empty: int) -> tuple[Tensor, Tensor]:
    """Put the values of sorted tiles into rows, one per tile, filled up with `empty`; return the columns too."""
    column = torch.arange(len(tiles)) - torch.searchsorted(tiles, tiles)
    table = torch.full((count, int(column.max()) + 1 if len(tiles) else 0), empty)
    table[tiles, column] = values
    return table, column


def visible(rows: Tensor, columns: Tensor) -> Tensor:
    """Return whether two tokens of a tile belong to one class, (T, rows, columns)."""
    return rows[:, :, None] == columns[:, None, :]


class PackedLayout(nn.Module):
    """Buffers of the packed prompts of C classes: token ids (C, L) with context vectors in their `slots` (C, L).

    `class_specific`: every class has contexts of its own. `changing`: the tower's weights are learned; then nothing is
    cached from step to step, and gradients flow through everything.
    """

    ids: Tensor
    slots: Tensor
    classes: Tensor
    position: Tensor
    fixed_class: Tensor
    fixed_position: Tensor
    ends: Tensor
    order: Tensor

    def __init__(
        self, ids: Tensor, slots: Tensor, eot: Tensor,
        class_specific: bool, changing: bool = False,
    ):  # fmt: skip
        super().__init__()
        same = ((slots == slots[:1]) & ((slots >= 0) | (ids == ids[:1]))).all(0)
        self.plan = plan(same.cpu(), slots, eot, class_specific, changing)
        for name, tensor in vars(lay_out(self.plan)).items():
            self.register_buffer(name, tensor.to(ids.device), persistent=False)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("slots", slots, persistent=False)
        real = self.classes < len(slots)
        self.contexts_inside = bool((slots[self.classes[real], self.position[real]] >= 0).any())
        self.class_specific, self.changing = class_specific, changing

    def entering(self, tower: OpenClipText, classes: Tensor, position: Tensor) -> Tensor:
        """Return tokens (..., D) of classes (...) at positions (...) as they enter the tower, without contexts."""
        here = self.slots[classes, position][..., None] >= 0
        known = torch.where(here, 0, tower.embed(self.ids[classes, position])).to(tower.positional_embedding.dtype)
        return known + tower.positional_embedding[position]
