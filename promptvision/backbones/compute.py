"""Settings of the computation that change no result: the way of encoding, and how much is encoded at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from promptvision.errors import InputError, unknown

WAYS = ("auto", "fast", "plain")
Views = TypeVar("Views")


@dataclass(frozen=True)
class Compute:
    """The way in which a tower encodes prompts and images, read by the encoders in every call.

    All values give equal features up to rounding, so a run can be resumed with others.
    """

    way: str = "auto"
    """"plain" calls the tower's blocks untouched, "fast" takes them apart and computes only what counts, what is shared
    once, "auto" is fast if every part of the tower is known."""
    chunk: int | str = 0
    """Classes whose prompts the text tower encodes at once, 0 for all, "auto" for as many as the free memory holds.
    With fewer, memory in training does not grow with the number of classes, at the price of a second forward pass."""
    images_at_once: int = 0
    """Images whose own prompts are encoded at once (CoCoOp, TPT); 0 for the method's default."""
    checkpoint: bool = False
    """If true, an image tower keeps only what enters its blocks for backward, which computes each block again."""

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise unknown("way to encode (COMPUTE.WAY)", self.way, WAYS)
        for name, value in (("COMPUTE.CHUNK", self.chunk), ("COMPUTE.IMAGES_AT_ONCE", self.images_at_once)):
            if isinstance(value, str):
                if value != "auto":
                    raise unknown(f"value of {name}", value, ("auto",))
            elif value < 0:
                raise InputError(f"{name} is {value}; it is a number of items computed at once, 0 for the default")

    def run(self, work: Callable[..., Any], block: nn.Module, *inputs: Tensor) -> Any:
        """Return `work(*inputs)`, the computation of a block, with `checkpoint` without keeping its activations."""
        if not (self.checkpoint and torch.is_grad_enabled()):
            return work(*inputs)
        again = _Hooks(block)
        return checkpoint(work, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again))

    def views(self, find: Callable[[], Views | None], problem: str) -> Views | None:
        """Return the views of the blocks for the fast way, or None for the plain way.

        `find`: finds the views, or None if a block is not known; then "fast" raises InputError with `problem`.
        """
        found = None if self.way == "plain" else find()
        if found is None and self.way == "fast":
            raise InputError(f"{problem}; set COMPUTE.WAY to auto or plain")
        return found


class _Hooks:
    """The forward hooks of a block's modules as they were when this was made, put back within a `with`.

    A method may attach hooks while it computes; backward, which computes the block again, comes later.
    """

    def __init__(self, block: nn.Module):
        self.modules = list(block.modules())
        self.hooks = [(module._forward_pre_hooks.copy(), module._forward_hooks.copy()) for module in self.modules]

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()

    def _swap(self) -> None:
        """Exchange the modules' hooks and those kept here."""
        found = [(module._forward_pre_hooks, module._forward_hooks) for module in self.modules]
        for module, (before, after) in zip(self.modules, self.hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after
        self.hooks = found
