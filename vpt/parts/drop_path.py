"""Stochastic depth of a frozen backbone while a method trains (Huang et al., ECCV 2016, arXiv:1603.09382)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.blocks import TokenHook
from promptvision.errors import check_share
from vpt.parts.attach import Hook
from vpt.parts.changes import block_views


def check_drop_path(tower: ImageTower, rate: float) -> None:
    """Raise InputError for a rate that no share is, or for a tower whose branches are not known."""
    check_share("drop_path", rate)
    if rate:
        block_views(tower, "drop_path")


def drop_path_hooks(tower: ImageTower, rate: float) -> Iterator[tuple[nn.Module, Hook]]:
    """Yield hooks that drop the attention and the MLP of block i of L for a share rate i / (L - 1) of the images."""
    for index, view in enumerate(block_views(tower, "drop_path")):
        share = rate * index / max(tower.depth - 1, 1)
        for branch in (view.scale1, view.scale2) if share else ():
            yield branch, TokenHook(_dropped, share=share)


def _dropped(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, share: float) -> Tensor:
    kept = output.new_empty(len(output), *[1] * (output.dim() - 1)).bernoulli_(1 - share)
    return output * kept.div_(1 - share)
