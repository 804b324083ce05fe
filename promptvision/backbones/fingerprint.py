"""The identity of a frozen tower in one number, which tells features computed with it from those of any other."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, type(None))
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def fingerprint(tower: nn.Module) -> str:
    """Return the SHA-256 of everything that decides a tower's output.

    That is weights, buffers, the plain attributes and hooks of its modules (number of heads, kind of pooling,
    activations), and the source files of their classes and base classes. What these files import or read is left
    out: `FeatureCache` compares a batch where a tower is the user's own.
    """
    digest = hashlib.sha256()
    for name, module in tower.named_modules():
        digest.update(f"{name}\0{type(module).__qualname__}\0{sorted(_attributes(module))}\0".encode())
    classes = {kind for module in tower.modules() for kind in type(module).__mro__}
    files = {getattr(sys.modules.get(kind.__module__), "__file__", None) or "" for kind in classes}
    for file in sorted(Path(file) for file in files if file.endswith(".py") and Path(file).is_file()):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for name, tensor in [*tower.named_parameters(), *tower.named_buffers()]:
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor of any dtype, copied only if necessary."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _attributes(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of the attributes of a module that decide what it computes."""
    for name, value in vars(module).items():
        if isinstance(value, PLAIN) or (isinstance(value, list | tuple) and all(isinstance(v, PLAIN) for v in value)):
            yield name, repr(value)
        elif inspect.isroutine(value) or isinstance(value, type):
            yield name, value.__qualname__
        elif name in HOOKS:
            yield name, str([getattr(hook, "__qualname__", type(hook).__qualname__) for hook in value.values()])
