"""Classes that the processes of one training share: each encodes its part, and all get the features of every class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LEAST = 4
"""Pieces of work per process, tiles or prompts, from which on sharing is worth its communication."""
_SHARING = [False]


def shared(make: Callable[[], Tensor]) -> Tensor:
    """Return `make()`, which depends on no image; processes that train together each encode a share of its classes.

    All of them must call it, so without gradients, as when the first process evaluates alone, nothing is shared.
    """
    if not (dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()):
        return make()
    _SHARING[0] = True
    try:
        return make()
    finally:
        _SHARING[0] = False


def agreed(drawn: Tensor, device: torch.device) -> Tensor:
    """Return what the first process drew on the host for a step, in all processes that train together.

    They pass it on by way of `device`. All of them must call it, with gradients on. Their generators differ, so that
    each draws its own dropout.
    """
    if not (dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()):
        return drawn
    sent = drawn.to(device)
    dist.broadcast(sent, 0)
    return sent.to(drawn.device)


def share(count: int) -> tuple[int, int]:
    """Return the first of `count` pieces that this process computes, and the end: all, unless inside `shared`."""
    if not _SHARING[0] or count < LEAST * dist.get_world_size():
        return 0, count
    rank, world = dist.get_rank(), dist.get_world_size()
    return count * rank // world, count * (rank + 1) // world


def gathered(own: Tensor, start: int, count: int) -> Tensor:
    """Return the pieces (R, count, ...) of all processes, of which this one computed `own` from `start` on."""
    return own if own.shape[1] == count else Gathered.apply(own, start, count)


class Gathered(torch.autograd.Function):
    """Every process has all pieces; each piece gets the gradients of the losses of all processes.

    The training loop sums the gradients of parameters over the processes, and a parameter meets a piece in the process
    that computed it only, so that nothing is counted twice.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, start: int, count: int) -> Tensor:
        ctx.part = slice(start, start + own.shape[1])
        found = own.new_zeros(len(own), count, *own.shape[2:])
        found[:, ctx.part] = own
        dist.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        summed = upstream.contiguous().clone()
        dist.all_reduce(summed)
        return summed[:, ctx.part], None, None
