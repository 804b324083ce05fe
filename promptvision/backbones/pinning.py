"""Towers whose views of blocks and constants are looked up once, not in every call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones.blocks import HOOKS, BlockView, view_block
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""Bytes of a number -> integers of as many bytes."""


@dataclass(frozen=True)
class Weights:
    """Identity of a module's parts and frozen weights: it changes with every edit in place, move and conversion.

    Edits of `weight.data`, which torch does not count, change `sums` only.
    """

    key: tuple[tuple[int, int, torch.dtype, torch.device], ...]
    parts: tuple[int, ...]
    sums: tuple[int, ...] = ()

    @classmethod
    def of(cls, module: nn.Module, *, summed: bool = False) -> Weights:
        """Return the weights that are frozen now, with their sums if they are to be read."""
        frozen = [each for each in module.parameters() if not each.requires_grad]
        key = tuple((each.data_ptr(), each._version, each.dtype, each.device) for each in frozen)
        sums = torch.stack([_sum_of_bits(each) for each in frozen]) if summed and frozen else None
        return cls(key, tuple(map(id, module.modules())), () if sums is None else tuple(sums.tolist()))


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, read as whole numbers of 8 bytes if it consists of such: no copy is made."""
    flat = tensor.detach().contiguous().view(-1)
    size = flat.element_size()
    whole = flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0
    return flat.view(torch.int64 if whole else INTEGERS[size]).sum()


@dataclass(frozen=True, eq=False)
class Pin:
    """The findings of a look at a tower."""

    training: bool
    frozen: bool
    weights: Weights
    views: list[BlockView | None]
    hooks: list[list[dict[int, Any]]]
    """Tables of the hooks of each block, empty or not."""

    def same(self, other: Pin) -> bool:
        """Return whether the tower has not changed in between."""
        facts = [(pin.training, pin.frozen, pin.weights, len(pin.views)) for pin in (self, other)]
        pairs = zip(self.views, other.views, strict=False)
        return facts[0] == facts[1] and all((a and a.block) is (b and b.block) for a, b in pairs)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # the copy of a pinned tower is not pinned


class Tower(nn.Module):
    """A stack of blocks that can be pinned: then views of blocks and constants are looked up once, not in every call.

    Results are those of the unpinned tower. What may differ between calls is noticed at once: autocast, precision and
    device of the tower, training or evaluation, hooks of blocks. Edited weights, also through `.data`, and parts that
    were exchanged, are noticed at the next `pin`.
    """

    blocks: Sequence[nn.Module]
    """Blocks that a subclass sets or defines; () where it does not."""
    callers: Sequence[nn.Module]
    """Modules of the backbone that call its blocks, () if unknown; if one of them has hooks, its code is followed."""
    pinned: Pin | None = None

    def __getattr__(self, name: str) -> Any:
        """Return () for what no subclass sets: as class attributes, () would hide modules of these names."""
        if name in ("blocks", "callers") and name not in self._modules and not hasattr(type(self), name):
            return ()
        return super().__getattr__(name)

    def lacks(self, step: str) -> InputError:
        """Return the error for a step that the tower's class must define."""
        return InputError(f"{type(self).__name__} defines no {step}")

    def pin(self, on: bool = True) -> bool:
        """Pin the tower, look again whether a pinned one has changed, or unpin it; return whether it has changed."""
        before, self.pinned = self.pinned, None
        if not on:
            return False
        views = [self.view(index) for index in range(len(self.blocks))]
        hooks = [[getattr(part, name) for part in block.modules() for name in HOOKS] for block in self.blocks]
        now = Pin(self.training, self.frozen, Weights.of(self, summed=True), views, hooks)
        if before is None or before.same(now):
            self.pinned = before or now
            return False
        LOG.warning("Frozen weights or blocks changed while pinned: what depends on them alone is computed again")
        self.pinned = now
        return True

    def view(self, index: int) -> BlockView | None:
        """Return the view of a block, or None if it has unknown parts."""
        pin = self.pinned
        if pin is not None and pin.training == self.training and not any(pin.hooks[index]):
            return pin.views[index]
        return view_block(self.blocks[index])

    def views(self, start: int = 0) -> list[BlockView] | None:
        """Return views of the blocks from `start` on, or None if any of them has unknown parts."""
        views = [self.view(index) for index in range(start, len(self.blocks))]
        return None if None in views else views  # type: ignore[return-value]

    @property
    def frozen(self) -> bool:
        """True if no parameter is learned."""
        return not any(each.requires_grad for each in self.parameters()) if self.pinned is None else self.pinned.frozen

    @property
    def weights(self) -> Weights:
        """The identity of the frozen weights."""
        return Weights.of(self) if self.pinned is None else self.pinned.weights
