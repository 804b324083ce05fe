"""Prompts in a Swin Transformer (VPT, arXiv:2203.12119, section 3.2 and its code), over timm's untouched weights.

The prompts of an image come before its patches, with a copy in every window; after the attention the copies are
averaged over the windows of that image. Position bias and shift mask are 0 for prompts. In patch merging a prompt is
concatenated with itself. The official code orders the copies differently from the windows, so that its shallow form
averages prompts of different images; that is not reproduced: no image sees another here.
Shapes: patches (B, H, W, C), prompts (B, P, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import Tensor

from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError


def stage_sizes(tower: ImageTower) -> list[tuple[int, int]]:
    """Return (blocks, width) of every stage of a Swin; raise InputError for other towers."""
    return [(len(stage.blocks), stage.blocks[0].dim) for stage in _swin(tower).layers]


def prompted_swin_features(
    tower: ImageTower, images: Tensor, prompts: Tensor, deep_prompts: Sequence[Tensor] = (), pool_prompts: bool = True
) -> Tensor:
    """Encode images (B, 3, H, W) with prompts into features (B, E).

    `prompts` (P, D) or (B, P, D) enter the first block; `deep_prompts[i]`, of the width of its stage, replaces them
    at block i + 1, counted over all stages. `pool_prompts`: the final mean is over prompts and patches (as published),
    else over patches only.
    """
    model = _swin(tower)
    patches, batch, upcoming = model.patch_embed(images), images.shape[0], iter([prompts, *deep_prompts])
    entering = prompts.expand(batch, -1, -1)
    for stage in model.layers:
        patches, merging = stage.downsample(patches), stage.downsample
        if hasattr(merging, "reduction"):  # all stages except the first: (B, P, C) to (B, P, 2 C)
            entering = merging.reduction(merging.norm(entering.repeat(1, 1, 4)))
        for block in stage.blocks:
            own = next(upcoming, None)
            entering = entering if own is None else own.to(patches.dtype).expand(batch, -1, -1)
            patches, entering = tower.compute.run(partial(_block, block), block, patches, entering)
    tokens = model.norm(patches).flatten(1, 2)
    if pool_prompts:
        tokens = torch.cat([model.norm(entering), tokens], dim=1)
    return model.head.drop(tokens.mean(dim=1))


def _swin(tower: ImageTower) -> Any:
    """Return timm's model of a Swin tower; raise InputError for others."""
    model = getattr(tower, "model", None)
    if not isinstance(model, SwinTransformer) or model.head.global_pool.pool_type != "avg":
        raise InputError(f"backbone {tower.name!r} is no Swin of timm (swin_*) with average pooling")
    return model


def _block(block: Any, patches: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Run a whole block on patches and prompts."""
    attended = _windowed(block, block.norm1(patches), block.norm1(prompts))
    left = []
    for tokens, change in zip((patches, prompts), attended, strict=True):
        tokens = tokens + block.drop_path1(change)
        left.append(tokens + block.drop_path2(block.mlp(block.norm2(tokens))))
    return left[0], left[1]


def _windowed(block: Any, patches: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Attend within the windows of a block, with its shift; prompts are in every window."""
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
    """Attend within (B, windows, count + area, C); the first `count` tokens have no position bias and no mask."""
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(2, 3) for part in attention.qkv(tokens).chunk(3, dim=-1)
    )
    bias = attention.relative_position_bias_table[attention.relative_position_index.flatten()]
    bias = bias.unflatten(0, (attention.window_area, -1)).permute(2, 0, 1)[None]
    bias = bias if mask is None else bias + mask[:, None]
    bias = F.pad(bias, (count, 0, count, 0)).to(query.dtype)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attention.proj_drop(attention.proj(attended.transpose(2, 3).flatten(-2)))
