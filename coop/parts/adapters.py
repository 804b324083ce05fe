"""Adapters beside the blocks of CLIP's two towers, which meet in a space that both towers share (MMA, MMA++)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.pinning import Tower
from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError

Adapter = Callable[[Tensor], Tensor]


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with weights from Kaiming's normal distribution of the fan-out."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer


class Bottleneck(nn.Module):
    """The way of a tower's tokens into the shared space, `down` D -> r, and back, `up` r -> D."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.down = nn.Sequential(linear(width, dim), nn.ReLU())
        self.up = linear(dim, width)


class SharedAdapters(nn.Module):
    """Adapters of blocks `layers`, counted from 0 and named from 1, with an r x r layer that the towers share.

    Of a block's normed input x they make up(dropout(relu(S relu(down(x))))), as wide as x.
    """

    def __init__(self, text: int, image: int, dim: int, layers: Sequence[int], dropout: float):
        super().__init__()
        names = [str(index + 1) for index in layers]
        self.text_adapter = nn.ModuleDict({name: Bottleneck(text, dim) for name in names})
        self.visual_adapter = nn.ModuleDict({name: Bottleneck(image, dim) for name in names})
        shared = {name: nn.Sequential(linear(dim, dim), nn.ReLU(), nn.Dropout(dropout)) for name in names}
        self.shared_adapter = nn.ModuleDict(shared)

    @property
    def draws(self) -> bool:
        """True if dropout is active."""
        return any(part.training and part.p > 0 for part in self.modules() if isinstance(part, nn.Dropout))

    def beside(self, tower: str) -> dict[int, Adapter]:
        """Return the adapter of each block, counted from 0, of the "text" or "visual" tower."""

        def adapt(name: str, normed: Tensor) -> Tensor:
            own = cast(Bottleneck, adapters[name])
            return own.up(self.shared_adapter[name](own.down(normed)))

        adapters: nn.ModuleDict = getattr(self, f"{tower}_adapter")
        return {int(name) - 1: partial(adapt, name) for name in adapters}


class AdaptedView(BlockView):
    """A block to whose output `scale` times the adapter of its normed input is added, taken apart."""

    def __init__(self, block: nn.Module, adapter: Adapter, scale: float | Tensor, draws: bool):
        super().__init__(block)
        self.adapter, self.factor, self.draws = adapter, scale, draws

    def finish(self, attended: Tensor, tokens: Tensor) -> Tensor:
        return super().finish(attended, tokens) + self.factor * self.adapter(self.norm1(tokens))


def adapted_views(
    tower: Tower, adapters: dict[int, Adapter], scale: float | Tensor, draws: bool
) -> dict[int, AdaptedView]:
    """Return views of the blocks that have adapters."""
    return {index: AdaptedView(known(tower, index).block, own, scale, draws) for index, own in adapters.items()}


def adapted_blocks(
    tower: Tower, adapters: dict[int, Adapter], scale: float | Tensor
) -> dict[int, Callable[..., Tensor]]:
    """Return callables of the blocks that have adapters, which call the blocks untouched."""

    def work(index: int, tokens: Tensor, **more: Tensor) -> Tensor:
        added = adapters[index](known(tower, index).norm1(tokens))
        return tower.blocks[index](tokens, **more) + scale * added

    return {index: partial(work, index) for index in adapters}


def known(tower: Tower, index: int) -> BlockView:
    """Return the view of a block, or raise InputError."""
    view = tower.view(index)
    if view is None:
        kind = type(tower.blocks[index]).__name__
        raise InputError(
            f"block {index} of {getattr(tower, 'name', '')!r} ({kind}) is of no kind that takes an adapter"
        )
    return view


def adapted_image(
    tower: ImageTower, tokens: Tensor, start: int, adapters: dict[int, Adapter], scale: float | Tensor, draws: bool
) -> Tensor:
    """Encode tokens (B, N, D) that enter block `start` into features (B, E), with adapters beside the blocks."""
    fast = tower.compute.way != "plain"
    changed = adapted_views(tower, adapters, scale, draws) if fast else adapted_blocks(tower, adapters, scale)
    works = [changed.get(index, block) for index, block in enumerate(tower.blocks)]
    below: list[Callable[..., Tensor]] = [lambda same: same] * start
    return tower.pool(tower.run(tokens, blocks=[*below, *works[start:]], first=tower.pooled))
