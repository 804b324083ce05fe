"""Masks of prompts, ranked by the gradient of the loss: the pruning of E2VPT (arXiv:2307.13770, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptvision.errors import InputError
from promptvision.method import Batches, Method


def check_pruning(options: Mapping[str, Any], width: int) -> None:
    """Raise InputError for shares of prompts or pieces that cannot be masked, or pieces that do not fill the width."""
    for name in ("prune_tokens", "prune_pieces"):
        if not 0 <= options[name] < 1:
            raise InputError(f"{name} is {options[name]}; it is a masked share, from 0 to below 1")
    if options["pieces"] < 1 or width % options["pieces"]:
        raise InputError(f"pieces is {options['pieces']}; take a divisor of the width of a prompt, {width}")


def importance(method: Method, masks: Sequence[Tensor], batches: Batches) -> list[Tensor]:
    """Return the gradients of the loss, a mean over all images, by masks that the method multiplies something by."""
    found, images_seen, device = [torch.zeros_like(mask) for mask in masks], 0, masks[0].device
    for mask in masks:
        mask.requires_grad_()
    for images, labels in batches:
        with torch.enable_grad():
            loss = method.loss(images.to(device), labels.to(device)) * len(labels)
        for total, gradient in zip(found, torch.autograd.grad(loss, list(masks)), strict=True):
            total += gradient
        images_seen += len(labels)
    for mask in masks:
        mask.requires_grad_(False)
    return [total / max(1, images_seen) for total in found]


@torch.no_grad()
def mask_least(mask: Tensor, scores: Tensor, share: float) -> None:
    """Set a mask to 1, and to 0 for this share of its entries, those of the smallest scores, rounded down."""
    least = scores.flatten().argsort(stable=True)[: int(scores.numel() * share)]
    mask.copy_(torch.ones_like(mask).flatten().index_fill(0, least, 0.0).view_as(mask))
