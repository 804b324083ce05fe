"""Obstacles to a CUDA graph, which repeats the kernels of a step and nothing else of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from promptvision.method import Method

READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Torch's tags of operations for whose result the host waits: item, nonzero, unique, ..."""


def waits(func: Any, args: Sequence[Any]) -> bool:
    """Return whether the host waits for numbers of an operation: for its result, or for the places of a mask."""
    if func.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
        return any(places is not None and places.dtype is torch.bool for places in args[1])
    return bool(READS & set(func.tags))


class Held(TorchDispatchMode):
    """Keeps alive, as `tensors`, all that work in a `with` statement reads and has not made itself: a graph reads them
    again in every replay, whatever becomes of who owned them."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.made:
                self.tensors.setdefault(leaf.untyped_storage().data_ptr(), leaf.detach())
        out = func(*args, **(kwargs or {}))
        made = (leaf.untyped_storage().data_ptr() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        self.made |= {place for place in made if place not in self.tensors}
        return out


class Watch(TorchDispatchMode):
    """Watches a step in a `with` statement: `obstacle` says why no graph could repeat it, "" if one could.

    Noted are numbers read from the device, tensors made by the host, random draws, and counters of the method.
    """

    def __init__(self, method: Method, device: torch.device):
        super().__init__()
        self.method, self.device, self.name = method, device, type(method).__name__
        self.obstacle = ""

    def __enter__(self) -> Watch:
        self.before = self._draws(), self._counters()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        draws, counters = self._draws(), self._counters()
        changed = [key for key, value in counters.items() if self.before[1].get(key, value) != value]
        if any(mine != theirs for mine, theirs in zip(draws, self.before[0], strict=True)):
            self._note(f"{self.name} draws random numbers in a step")
        elif changed:
            self._note(f"{self.name} changes {changed[0]} in a step")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()}
        made = {leaf.device.type for leaf in tree_leaves(out) if isinstance(leaf, Tensor)}
        on = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)} | made
        name = func.overloadpacket.__name__
        if self.device.type in on and waits(func, args):
            self._note(f"{self.name} reads numbers back from the device in a step ({name})")
        elif self.device.type in made and name == "lift_fresh":
            self._note(f"{self.name} makes a tensor of numbers of the host in a step")
        elif made and given - made and self.device.type in on:
            self._note(f"{self.name} moves tensors between devices in a step ({name})")
        return out

    def _note(self, obstacle: str) -> None:
        self.obstacle = self.obstacle or obstacle

    def _draws(self) -> list[Any]:
        """Return the states of all global generators."""
        found = [random.getstate(), torch.get_rng_state().tolist(), str(np.random.get_state())]
        return found + ([torch.cuda.get_rng_state(self.device).tolist()] if self.device.type == "cuda" else [])

    def _counters(self) -> dict[str, Any]:
        """Return the plain numbers and words that modules hold as attributes."""
        return {
            f"{type(module).__name__}.{key}": value
            for module in self.method.modules()
            for key, value in vars(module).items()
            if isinstance(value, int | float | str)
        }
