"""Attention of the class token to patches and prompts, read off any image encoder while it computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, counted

Encode = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, H, W) to features (B, E)."""


class Watch(TorchFunctionMode):
    """Keeps the weights of every attention that is computed within it, (B, heads, queries, keys), in their order.

    Towers of timm hide them in fused attention, those of open_clip in torch's MultiheadAttention, and methods call
    either with keys, values and changed layers of their own: here the weights are those of the very call. Attention
    with a mask, that of a text tower, is left out. `grid`: height and width, in patches, of the first convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []
        self.grid: tuple[int, int] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is F.multi_head_attention_forward and given.get("attn_mask") is None:
            found: tuple[Tensor, Any] = func(*args, **given | {"need_weights": True, "average_attn_weights": False})
            self.weights.append(found[1])
            return found[0], None
        if func is F.scaled_dot_product_attention and given.get("attn_mask") is None and not given.get("is_causal"):
            self.weights.append(attention_weights(args[0], args[1], given.get("scale")))
        output = func(*args, **given)
        if func is F.conv2d and self.grid is None:
            self.grid = (output.shape[-2], output.shape[-1])
        return output


def attention_weights(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) of heads (..., N, d) and (..., M, d), (..., N, M)."""
    return (query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)).softmax(dim=-1)


@dataclass(frozen=True)
class ClassAttention:
    """Attention of the class token in each of L blocks, a mean over heads; a row of its parts adds up to one."""

    patches: Tensor
    """(L, B, h, w)."""
    prompts: Tensor
    """(L, B), of all prompts, and of learned keys, together."""
    own: Tensor
    """(L, B), of the class token itself and of the registers beside it."""
    prompt_counts: list[int]
    """Number of prompts, and learned keys, that it sees in each block."""


def class_attention(tower: ImageTower, encode: Encode, images: Tensor) -> ClassAttention:
    """Return the attention of the class token while `encode`, of a method on this tower, encodes images.

    Every block must be computed for all tokens (COMPUTE.WAY plain). Of a method that encodes an image several times it
    is the last pass. InputError where there is no class token, no square of patches, or no attention in the blocks.
    """
    if not tower.depth:
        raise InputError(f"backbone {tower.name} has no blocks of a ViT, so no class token that attends to patches")
    if not tower.prefix:
        raise InputError(f"backbone {tower.name} has no class token whose attention could be shown")
    with torch.no_grad(), Watch() as watch:
        encode(images)
    height, width = watch.grid or (0, 0)
    full = [each for each in watch.weights if each.shape[-2] >= tower.prefix + height * width]
    if not height or len(full) < tower.depth:
        raise InputError(
            f"the {counted(tower.depth, 'block')} of backbone {tower.name} compute their attention in a way of their "
            "own, so it cannot be drawn"
        )
    return parted(full[-tower.depth :], tower.prefix, (height, width))


def parted(weights: Sequence[Tensor], prefix: int, grid: tuple[int, int]) -> ClassAttention:
    """Split the class token's attention, of weights (B, heads, queries, keys) of each block.

    Learned keys come before the keys of the tokens, prompts after the `prefix` tokens, the patches last.
    """
    patches = math.prod(grid)
    rows = [each.mean(dim=1)[:, 0] for each in weights]
    learned = [each.shape[-1] - each.shape[-2] for each in weights]
    seen = torch.stack([row[:, -patches:] for row in rows])
    own = torch.stack([row[:, n : n + prefix].sum(dim=1) for row, n in zip(rows, learned, strict=True)])
    counts = [row.shape[1] - prefix - patches for row in rows]
    return ClassAttention(seen.unflatten(2, grid), 1 - own - seen.sum(dim=2), own, counts)
