"""Losses and gradients of many runs at once: their learned tensors on a leading axis (`torch.func.vmap`)."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from promptvision.engine.device import PRECISIONS, autocast
from promptvision.engine.step import Batch, Step
from promptvision.errors import lacks_memory
from promptvision.method import Method

LOG = logging.getLogger(__name__)
IGNORED = -100
"""The label of an image that `F.cross_entropy` leaves out of its mean."""


class Learner:
    """A method whose tensors can be replaced for a while: `learned`, its parameters that gradient descent changes, and
    `own`, its buffers, such as remembered images, which may differ from run to run."""

    def __init__(self, method: Method):
        self.method = method

    @cached_property
    def learned(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self.method.trained().items() if each.requires_grad}

    @cached_property
    def own(self) -> dict[str, Tensor]:
        return {name: each for name, each in self.method.named_buffers() if not name.startswith("backbone.")}

    @cached_property
    def places(self) -> dict[str, tuple[dict[str, Any], str]]:
        """The place where the method keeps each: the dict of a module, and the key in it."""
        found = dict[str, tuple[dict[str, Any], str]]()
        for name in (*self.learned, *self.own):
            path, _, key = name.rpartition(".")
            module = self.method.get_submodule(path)
            found[name] = (module._parameters if name in self.learned else module._buffers), key
        return found

    def loss(self, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return `Method.loss` with other tensors; `functional_call` would walk through the backbone each time."""
        places = [(*self.places[name], tensor) for name, tensor in tensors.items()]
        before = [holder[key] for holder, key, _ in places]
        try:
            for holder, key, tensor in places:
                holder[key] = tensor
            return self.method.loss(*batch)
        finally:
            for (holder, key, _), tensor in zip(places, before, strict=True):
                holder[key] = tensor


@dataclass(eq=False)
class Wanted:
    """The `Step.backward` of a batch and its share that run `number` of a stack waits for."""

    number: int
    step: Step
    learner: Learner
    batch: Batch
    share: float
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0
    """Its share of the time that they took."""
    together: int = 1
    """Number of runs whose steps were computed as one."""
    error: Exception | None = None

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Kinds and shapes of all tensors, the same for runs that are computed as one.

        Batches of images and labels may have different numbers of images, as `padded` makes them equal.
        """
        batch = [tensor[:1] for tensor in self.batch] if len(self.batch) == 2 else self.batch
        tensors = [*batch, *self.learner.learned.values(), *self.learner.own.values()]
        return (self.step.precision, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors))

    def padded(self, size: int) -> Batch:
        """Return the batch with `size` images: its first image again, with a label that cross-entropy leaves out."""
        rest = size - len(self.batch[1])
        if not rest:
            return self.batch
        images, labels = self.batch
        return torch.cat([images, images[:1].expand(rest, *images.shape[1:])]), F.pad(labels, (0, rest), value=IGNORED)


def compute(wanted: Sequence[Wanted]) -> None:
    """Compute the gradients of all that wait, those of one shape as one; an error is that of the run it concerns."""
    groups = defaultdict[Any, list[Wanted]](list)
    for each in sorted(wanted, key=lambda each: each.number):
        groups[each.shapes].append(each)
    for group in groups.values():
        _compute(group)


def _compute(group: Sequence[Wanted]) -> None:
    """Compute gradients of one shape, or half of them at a time where that fails."""
    started = time.monotonic()
    try:
        if len(group) > 1:
            _as_one(group)
        else:
            (one,) = group
            one.loss = Step.backward(one.step, one.batch, one.share)
    except Exception as error:  # noqa: BLE001 - raised again in the thread of the run that it concerns
        if len(group) > 1:
            if not lacks_memory(error):
                _warn(f"{type(group[0].step.method).__name__} cannot train as one with others: {error}")
            _compute(group[: len(group) // 2])
            _compute(group[len(group) // 2 :])
            return
        group[0].error = error
    for each in group:
        each.seconds, each.together = (time.monotonic() - started) / len(group), len(group)


def _as_one(group: Sequence[Wanted]) -> None:
    """Compute the gradients of several runs on a leading axis.

    The sum of the losses has the gradients of each: no run's loss depends on another's tensors.
    """
    first, device = group[0].learner, group[0].step.device
    learned = {
        name: torch.stack([each.learner.learned[name].detach() for each in group]).requires_grad_()
        for name in first.learned
    }
    own = dict[str, Tensor]()
    for name, tensor in first.own.items():
        others = [each.learner.own[name] for each in group]
        if not all(other is tensor or torch.equal(other, tensor) for other in others):
            own[name] = torch.stack(others)
    size = max(len(each.batch[1]) for each in group)
    batch = [torch.stack(tensors) for tensors in zip(*(each.padded(size) for each in group), strict=True)]
    precision = group[0].step.precision
    # on a CPU vmap has no rule for fused attention and would run it row by row
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    cast = nullcontext() if precision == "fp32" else CastAttention(PRECISIONS[precision])
    with autocast(device, precision), plain, cast:
        losses = vmap(first.loss)({**learned, **own}, batch)
    shares = torch.tensor([each.share for each in group], dtype=losses.dtype, device=device)
    gradients = torch.autograd.grad((losses * shares).sum(), list(learned.values()), allow_unused=True)
    for each, value in zip(group, losses.detach().unbind(), strict=True):
        each.loss = value
    for name, gradient in zip(learned, gradients, strict=True):
        for each, own_gradient in zip(group, gradient.unbind() if gradient is not None else (), strict=False):
            parameter = each.learner.learned[name]
            parameter.grad = own_gradient if parameter.grad is None else parameter.grad + own_gradient


class CastAttention(TorchFunctionMode):
    """Attention in the precision of autocast, which casts all else under vmap, but not this."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            args, kwargs = tree_map_only(Tensor, self._cast, (args, kwargs))
        return func(*args, **kwargs or {})

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


@cache
def _warn(sentence: str) -> None:
    """Log a sentence once."""
    LOG.warning("%s: they are computed one after the other", sentence)
