"""LoRA: low-rank changes of attention and MLP weights (Hu et al., ICLR 2022, arXiv:2106.09685).

This does not use peft, which rewrites the backbone (it wraps layers and renames their tensors for good), treats a
fused qkv as one matrix, and merges the weights of torch's MultiheadAttention in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones.blocks import BlockView, view_block
from promptvision.backbones.pinning import Tower
from promptvision.backbones.towers import ImageTower, TextTower
from promptvision.errors import InputError, check_share, unknown

TARGETS = ("q", "k", "v", "o", "fc1", "fc2")


class Change(Protocol):
    """A change of the output of a layer, (layer's input, its output) to another output."""

    @property
    def draws(self) -> bool:
        """Return whether it draws random numbers."""

    def __call__(self, inputs: Tensor, output: Tensor) -> Tensor: ...


Changes = Mapping[str, Any]
"""The `Change` of layers of a block by target: one of TARGETS, or "norm1" and "norm2"."""


class LowRank(nn.Module):
    """A change of the output of a linear layer: y + scaling x A^T B^T of inputs x (..., in) and outputs y (..., out).

    A (rank, in) starts Kaiming uniform, B (out, rank) at zero: the method starts as the backbone. Only `product` forms
    B A, which is as large as the layer's weight. `prefix`: the tensors are called `<prefix>A` and `<prefix>B`.
    """

    def __init__(
        self, inputs: int, outputs: int, rank: int, scaling: float, dropout: float = 0.0, prefix: str = "lora_"
    ):
        super().__init__()
        self.names = (f"{prefix}A", f"{prefix}B")
        for name, start in zip(self.names, (torch.empty(rank, inputs), torch.zeros(outputs, rank)), strict=True):
            self.register_parameter(name, nn.Parameter(start))
        nn.init.kaiming_uniform_(getattr(self, self.names[0]), a=math.sqrt(5))
        self.dropout, self.scaling = nn.Dropout(dropout), scaling

    @property
    def draws(self) -> bool:
        """Return whether dropout is active."""
        return self.dropout.training and self.dropout.p > 0

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        down, up = (getattr(self, name) for name in self.names)
        return output + F.linear(F.linear(self.dropout(inputs), down), up) * self.scaling

    def product(self) -> Tensor:
        """Return the change of the weight, scaling x B A (out, in)."""
        down, up = (getattr(self, name) for name in self.names)
        return self.scaling * up @ down


def changed(changes: Changes, target: str, inputs: Tensor, output: Tensor) -> Tensor:
    """Return the output of a layer, changed if it has a change."""
    return changes[target](inputs, output) if target in changes else output


class ChangedView(BlockView):
    """A block with changes of its layers' outputs, taken apart; `weights` are those without the changes."""

    def __init__(self, block: nn.Module, changes: Changes):
        super().__init__(block)
        self.changes = changes
        self.norm1, self.norm2 = (
            partial(self._changed, "norm1", self.norm1),
            partial(self._changed, "norm2", self.norm2),
        )
        self.projection = partial(self._changed, "o", self.projection)
        self.up, self.down = partial(self._changed, "fc1", self.up), partial(self._changed, "fc2", self.down)

    def part(self, normed: Tensor, first: int, last: int) -> Tensor:
        parts = zip("qkv"[first:last], super().part(normed, first, last).chunk(last - first, dim=-1), strict=True)
        return torch.cat([changed(self.changes, name, normed, part) for name, part in parts], dim=-1)

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return any(change.draws for change in self.changes.values())

    def attended(self, query: Tensor, normed: Tensor) -> Tensor:
        """Attend without folding the weights of keys and values if these change."""
        if not {"k", "v"} & self.changes.keys():
            return super().attended(query, normed)
        key, value = self.split(self.part(normed, 1, 3), 2)
        return F.scaled_dot_product_attention(query, key, value)

    def _changed(self, target: str, layer: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        return changed(self.changes, target, inputs, layer(inputs))


def changed_views(tower: Tower, changes: Mapping[int, Changes]) -> dict[int, ChangedView]:
    """Return views of the blocks that have changes, `changes[i]` in block i; raise InputError for unknown blocks."""
    views = {index: tower.view(index) or known_view(tower.blocks[index]) for index in changes}
    return {index: ChangedView(view.block, changes[index]) for index, view in views.items()}


def changed_blocks(tower: Tower, changes: Mapping[int, Changes]) -> list[Callable[..., Tensor]]:
    """Return callables of the blocks, with `changes[i]` in block i; those without changes are called unchanged."""
    views = changed_views(tower, changes)
    return [views.get(index, block) for index, block in enumerate(tower.blocks)]


def changed_image(tower: ImageTower, images: Tensor, changes: Mapping[int, Changes]) -> Tensor:
    """Encode images (B, 3, H, W) into features (B, E), with `changes[i]` in block i."""
    blocks = changed_blocks(tower, changes)
    return tower.pool(tower.run(tower.enter(tower.embed(images)), blocks=blocks, first=tower.pooled))


def known_view(block: nn.Module, name: str = "", method: str = "LoRA") -> BlockView:
    """Return the view of a block, or raise InputError if it is not known."""
    view = view_block(block)
    if view is None:
        raise InputError(f"backbone {name!r} has blocks of a kind that {method} does not know ({type(block).__name__})")
    return view


def shapes(view: BlockView) -> dict[str, tuple[int, int]]:
    """Return (in, out) of the weights of a block, by target."""
    width, hidden = view.up.in_features, view.up.out_features
    return {**{name: (width, width) for name in "qkvo"}, "fc1": (width, hidden), "fc2": (hidden, width)}


def check(rank: int, targets: Sequence[str], dropout: float, known: Sequence[str] = TARGETS) -> None:
    """Raise InputError for settings that no LoRA can have."""
    if rank < 1:
        raise InputError(f"rank is {rank}; LoRA needs at least 1")
    check_share("dropout", dropout)
    if not targets:
        raise InputError(f"targets is empty; LoRA changes at least one of {', '.join(known)}")
    for target in targets:
        if target not in known:
            raise unknown("target of LoRA", target, known)


def tower_changes(
    tower: ImageTower | TextTower,
    layers: Sequence[int],
    targets: Sequence[str],
    low_rank: Callable[[int, int], LowRank],
) -> dict[int, dict[str, LowRank]]:
    """Create the changes of the blocks `layers` of a tower, all if empty; `low_rank(in, out)` makes each."""
    name, depth = getattr(tower, "name", ""), len(tower.blocks)
    if not depth:
        raise InputError(f"backbone {name!r} has no blocks with attention for LoRA to change; choose a transformer")
    for index in layers:
        if not 0 <= index < depth:
            raise InputError(f"there is no block {index} for LoRA: this tower of {name!r} has {depth}, from 0")
    sizes = {index: shapes(known_view(tower.blocks[index], name)) for index in sorted(layers or range(depth))}
    return {
        index: {target: low_rank(*block[target]) for target in TARGETS if target in targets}
        for index, block in sizes.items()
    }
