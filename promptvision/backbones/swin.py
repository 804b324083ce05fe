"""Prompts in a Swin Transformer (VPT, arXiv:2203.12119, section 3.2 and its code), over timm's untouched weights.

The prompts of an image stand in front of its patches, and a copy of them in every window; after the attention the
copies are averaged over the windows of that image. Position bias and shift mask are 0 for prompts. Where patches are
merged, a prompt is joined with itself. The official code puts the copies in another order than the windows, so that
prompts of different images are averaged in its shallow form; that is not kept: no image sees another here.
Shapes: patches (B, H, W, C), prompts (B, P, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import Tensor

from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError


def stage_sizes(tower: ImageTower) -> list[tuple[int, int]]:
    """(blocks, width) of every stage of a Swin; other towers are refused."""
    return [(len(stage.blocks), stage.blocks[0].dim) for stage in _swin(tower).layers]


def prompted_swin_features(
    tower: ImageTower, images: Tensor, prompts: Tensor, deep_prompts: Sequence[Tensor] = (), pool_prompts: bool = True
) -> Tensor:
    """Images (B, 3, H, W) to features (B, E).

    `prompts` (P, D) or (B, P, D) enter the first block; `deep_prompts[i]`, of the width of its stage, replaces them
    at the entrance of block i + 1, counted over all stages. `pool_prompts`: whether the final mean is over prompts
    and patches (as published) or over patches alone.
    """
    model = _swin(tower)
    patches, batch, upcoming = model.patch_embed(images), len(images), iter([prompts, *deep_prompts])
    entering = prompts.expand(batch, -1, -1)
    for stage in model.layers:
        patches, entering = stage.downsample(patches), _merge(stage.downsample, entering)
        for block in stage.blocks:
            own = next(upcoming, None)
            entering = entering if own is None else own.to(patches.dtype).expand(batch, -1, -1)
            patches, entering = _block(block, patches, entering)
    tokens = model.norm(patches).flatten(1, 2)
    if pool_prompts:
        tokens = torch.cat([model.norm(entering), tokens], dim=1)
    return model.head.drop(tokens.mean(dim=1))


def _swin(tower: ImageTower) -> Any:
    model = getattr(tower, "model", None)
    if not isinstance(model, SwinTransformer) or model.head.global_pool.pool_type != "avg":
        raise InputError(f"backbone {tower.name!r} is no Swin of timm (swin_*) with average pooling")
    return model


def _merge(downsample: Any, prompts: Tensor) -> Tensor:
    """Prompts through a stage's patch merging: (B, P, C) to (B, P, 2 C); the first stage has none."""
    if not hasattr(downsample, "reduction"):
        return prompts
    return downsample.reduction(downsample.norm(prompts.repeat(1, 1, 4)))


def _block(block: Any, patches: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    attended = _windowed(block, block.norm1(patches), block.norm1(prompts))
    left = []
    for tokens, change in zip((patches, prompts), attended, strict=True):
        tokens = tokens + block.drop_path1(change)
        left.append(tokens + block.drop_path2(block.mlp(block.norm2(tokens))))
    return left[0], left[1]


def _windowed(block: Any, patches: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Attention within the windows of a block, shifted as the block says; prompts are in every window."""
    (batch, height, width, channels), size, count = patches.shape, block.window_size, prompts.shape[1]
    shift = tuple(block.shift_size)
    rolled = torch.roll(patches, (-shift[0], -shift[1]), dims=(1, 2))
    rolled = F.pad(rolled, (0, 0, 0, -width % size[1], 0, -height % size[0]))
    padded = rolled.shape[1:3]
    windows = window_partition(rolled, size).reshape(batch, -1, block.window_area, channels)
    copies = prompts[:, None].expand(-1, windows.shape[1], -1, -1)
    mask = block.get_attn_mask(rolled) if block.dynamic_mask else block.attn_mask
    attended = _attention(block.attn, torch.cat([copies, windows], dim=2), mask, count)
    windows = attended[:, :, count:].reshape(-1, *size, channels)
    restored = window_reverse(windows, size, *padded)[:, :height, :width]
    return torch.roll(restored, shift, dims=(1, 2)), attended[:, :, :count].mean(dim=1)


def _attention(attention: Any, tokens: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """(B, windows, count + area, C) to the same; the first `count` tokens know no position and no mask."""
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(2, 3) for part in attention.qkv(tokens).chunk(3, dim=-1)
    )
    bias = attention._get_rel_pos_bias()
    bias = bias if mask is None else bias + mask[:, None]
    bias = F.pad(bias, (count, 0, count, 0)).to(query.dtype)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attention.proj_drop(attention.proj(attended.transpose(2, 3).flatten(-2)))
