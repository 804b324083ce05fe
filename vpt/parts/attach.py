"""Hooks that change the outputs of a backbone's modules, only while a method computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""(module, positional arguments, output) to the output that replaces it, or None to keep it."""


@contextmanager
def attached(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Attach forward hooks within a `with`; outside, a backbone that others share is bit-identical."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def own_blocks(tower: ImageTower) -> list[nn.Module]:
    """Return the blocks as the model itself holds and calls them (a tower's may be wrapped); none if it has stages."""
    blocks = getattr(getattr(tower, "model", tower), "blocks", None)
    return list(blocks if isinstance(blocks, nn.Sequential | nn.ModuleList) else tower.blocks)


def mlp_blocks(tower: ImageTower) -> list[nn.Module]:
    """Return the blocks that end in an MLP over their last axis, in order: of ViTs, Swin, ConvNeXt, CLIP's ViT."""
    blocks = own_blocks(tower)
    if not blocks:
        blocks = [part for part in tower.modules() if hasattr(part, "drop_path") or hasattr(part, "drop_path1")]
    return [block for block in blocks if mlp_linears(block)]


def mlp_linears(block: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a block's MLP, in order; none if it has no MLP."""
    mlp = getattr(block, "mlp", None)
    return [part for part in mlp.modules() if isinstance(part, nn.Linear)] if isinstance(mlp, nn.Module) else []


def mlp_norm(block: nn.Module) -> nn.Module:
    """Return the norm before (in Swin v2 after) a block's MLP: of ViTs and Swin, of CLIP's ViT, of ConvNeXt."""
    for name in ("norm2", "ln_2", "norm"):
        if isinstance(getattr(block, name, None), nn.Module):
            return getattr(block, name)
    raise InputError(
        f"blocks of type {type(block).__name__} have no norm of a known name before their MLP; "
        f"set METHOD.OPTIONS.READS normed"
    )
