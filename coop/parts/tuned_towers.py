"""Copies of towers that learn some of their tensors and share all others with the tower, which stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from promptvision.backbones import ImageTower, TextTower
from promptvision.backbones.blocks import NORMS
from promptvision.errors import InputError

T = TypeVar("T", ImageTower, TextTower)


def tuned_copy(tower: T, chosen: Callable[[str], bool]) -> tuple[T, dict[str, nn.Parameter]]:
    """Return a copy that learns the tensors that are `chosen` by name, and these by their official names."""
    same: dict[int, Any] = {id(tensor): tensor for tensor in (*tower.parameters(), *tower.buffers())}
    same |= {id(part.tokenizer): part.tokenizer for part in tower.modules() if hasattr(part, "tokenizer")}
    learned = {}
    for name, parameter in tower.named_parameters():
        if chosen(name):
            official = "visual." + name.removeprefix("model.") if isinstance(tower, ImageTower) else name
            same[id(parameter)] = learned[official] = nn.Parameter(parameter.detach().float().clone())
    return copy.deepcopy(tower, same), learned


def names_of_norms(tower: ImageTower | TextTower, start: int, outer: bool) -> set[str]:
    """Return the names of weights and biases of the norms in the blocks from `start` on, and with `outer` of those
    before and after the blocks; the norm before them only with all blocks."""
    blocks = blocks_from(tower, start)
    inner = {module for block in tower.blocks for module in block.modules()}
    chosen = {module for block in blocks for module in block.modules() if isinstance(module, NORMS)}
    for name, module in tower.named_modules():
        if outer and isinstance(module, NORMS) and module not in inner and (start == 0 or not name.endswith("ln_pre")):
            chosen.add(module)
    return {name for name, _ in named_in(tower, chosen)}


def names_of_biases(tower: ImageTower | TextTower, start: int) -> set[str]:
    """Return the names of all biases in the blocks from `start` on (BitFit, arXiv:2106.10199)."""
    parts = {part for block in blocks_from(tower, start) for part in block.modules()}
    return {name for name, last in named_in(tower, parts) if last.endswith("bias")}


def blocks_from(tower: ImageTower | TextTower, start: int) -> list[nn.Module]:
    """Return the blocks from `start` on; raise InputError if there are none."""
    name, depth = getattr(tower, "name", ""), len(tower.blocks)
    if not depth:
        raise InputError(f"backbone {name!r} has no blocks whose norms or biases could be tuned; choose a transformer")
    if not 0 <= start < depth:
        raise InputError(f"there is no block {start} to tune from: this tower of {name!r} has {depth}, from 0")
    return list(tower.blocks)[start:]


def named_in(tower: nn.Module, parts: set[nn.Module]) -> list[tuple[str, str]]:
    """Return the full and the last names of the tensors that these parts of a tower hold themselves."""
    found = ((name, part) for name, part in tower.named_modules() if part in parts)
    return [(f"{name}.{last}", last) for name, part in found for last, _ in part.named_parameters(recurse=False)]
