"""Changing what a backbone's modules give, for as long as a method computes and no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from promptvision.backbones import ImageTower

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""(module, positional arguments, output) to the output in its place, or None to leave it."""


@contextmanager
def attached(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Forward hooks within a `with`: a backbone that others share is bit-identical outside."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mlp_blocks(tower: ImageTower) -> list[nn.Module]:
    """The tower's blocks that end in an MLP over their last axis, in order: of ViTs, Swin, ConvNeXt, CLIP's ViT."""
    blocks = own_blocks(tower) or [part for part in tower.modules() if hasattr(part, "drop_path") or _has_paths(part)]
    return [block for block in blocks if _linears(getattr(block, "mlp", None))]


def own_blocks(tower: ImageTower) -> list[nn.Module]:
    """The blocks as the model itself holds and calls them (a tower's may be wrapped); empty where it has stages."""
    blocks = getattr(getattr(tower, "model", tower), "blocks", None)
    return list(blocks if isinstance(blocks, nn.Sequential | nn.ModuleList) else tower.blocks)


def mlp_width(block: nn.Module) -> int:
    """D, the length of the tokens that a block's MLP gives."""
    return _linears(block.mlp)[-1].out_features


def _has_paths(block: nn.Module) -> bool:
    return hasattr(block, "drop_path1") and hasattr(block, "drop_path2")


def _linears(mlp: Any) -> list[nn.Linear]:
    return [part for part in mlp.modules() if isinstance(part, nn.Linear)] if isinstance(mlp, nn.Module) else []
