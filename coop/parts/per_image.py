"""The mean loss of images with contexts of their own, in the memory of a few images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Losses = Callable[[Tensor, slice], Tensor]
"""A function from the contexts (R, M, D) of a slice of images to their losses (R,)."""

SCALES = (2.0**8, 2.0**4, 1.0)
"""Factors, tried in turn, on a loss before backward: 16-bit gradients vanish below the first and overflow above it.

2^8 times the 100 of CLIP's temperature still fits into fp16. Other precisions, bf16 too, have the range of fp32, in
which powers of two change nothing: there the last is the only one, and nothing is read back from the device.
"""


def scales(tensor: Tensor) -> tuple[float, ...]:
    """Return the factors to try on a loss whose gradient at a tensor is computed now."""
    kind = tensor.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return SCALES if half or tensor.dtype == torch.float16 else SCALES[-1:]


def parts(count: int, size: int) -> Iterator[slice]:
    """Split 0 .. count - 1 into slices of `size`."""
    return (slice(start, start + size) for start in range(0, count, size))


def mean_loss(contexts: Tensor, losses: Losses, at_once: int, shared: Sequence[Tensor] = ()) -> Tensor:
    """Return the mean over images of `losses` at contexts (R, M, D), a scalar, `at_once` images at a time.

    A mean over images can be differentiated image by image: where a gradient is needed, each slice runs forward and
    backward to its contexts, and only the gradient (R, M, D) is kept. Value and gradient are those of all images
    together. `shared`: whatever else of `losses` needs a gradient.
    """
    if torch.is_grad_enabled() and contexts.requires_grad:
        return MeanLoss.apply(contexts, losses, at_once, *shared)
    return torch.cat([losses(contexts[part], part) for part in parts(len(contexts), at_once)]).mean()


class MeanLoss(torch.autograd.Function):
    """The mean loss, which computes the gradients of its contexts, and of what all images share, during forward."""

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, losses: Losses, at_once: int, *shared: Tensor) -> Tensor:
        gradient, sums, values = torch.empty_like(contexts), [torch.zeros_like(each) for each in shared], []
        for part in parts(len(contexts), at_once):
            value, gradient[part], own = differentiate(losses, contexts[part], part, shared)
            sums = [total + each for total, each in zip(sums, own, strict=True)]
            values.append(value)
        ctx.save_for_backward(*(each / len(contexts) for each in (gradient, *sums)))
        return torch.cat(values).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, *sums = (each * upstream for each in ctx.saved_tensors)
        return gradient, None, None, *sums


def differentiate(
    losses: Losses, contexts: Tensor, part: slice, shared: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the losses (R,) of a slice, and the gradients of their sum: (R, M, D), and those of `shared`."""
    for scale in scales(contexts):
        leaf = contexts.detach().requires_grad_()
        with torch.enable_grad():
            found = losses(leaf, part)
            gradients = torch.autograd.grad(found.sum() * scale, (leaf, *shared))
        if scale == SCALES[-1] or all(each.isfinite().all() for each in gradients):
            break
    own, *others = (each / scale for each in gradients)
    return found.detach(), own, others
