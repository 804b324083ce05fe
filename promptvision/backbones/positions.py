"""Backbones for images of another size: position embeddings are resized, all other weights are shared."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError, unknown

WAYS: dict[str, dict[str, Any]] = {
    "timm": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic"},
    "official": {"mode": "bilinear", "align_corners": True},
}
"""Methods of resizing a grid of position embeddings: timm's and open_clip's; bicubic without antialiasing, as DINO, MAE
and transformers have it; or that of Google's and VPT's code, which is scipy's `zoom(order=1)`: linear, corners kept.
Prefix tokens keep theirs."""


def resize_positions(tower: ImageTower, image_size: int, way: str = "timm") -> ImageTower:
    """Return a tower for square images of `image_size` pixels; it shares all weights except the positions.

    `way`: a row of `WAYS`. Pixels that the patch does not divide are left out at the right and lower edge, as the
    patch convolution does; `check_size` refuses such sizes. Rotary positions and Swin's shift masks are recomputed;
    Swin's windows keep their size. Convolutional networks take any size.
    """
    if way not in WAYS:
        raise unknown("way to resize positions (BACKBONE.RESIZE)", way, WAYS)
    if image_size == tower.image_size:
        return tower
    resized = copy.deepcopy(tower, {id(parameter): parameter for parameter in tower.parameters()})
    model: Any = getattr(resized, "model", None)
    facts = getattr(model, "pretrained_cfg", None) or {}
    if hasattr(model, "set_input_size") and hasattr(model, "patch_embed"):
        _resize_timm(model, image_size, way)
    elif hasattr(model, "positional_embedding"):
        _resize_open_clip(model, image_size, way)
    elif model is None or facts.get("fixed_input_size") or hasattr(model, "attnpool"):
        size = f"the {image_size} pixels of INPUT.SIZE"
        raise InputError(f"backbone {tower.name!r} takes images of one size only and cannot be brought to {size}")
    resized.image_size = image_size
    return resized


def check_size(tower: ImageTower, image_size: int) -> None:
    """Raise InputError for a size that the patch does not divide: the right and lower edge would not be seen."""
    patch = tower.patch_size
    if not patch or image_size % patch == 0:
        return
    below, above = image_size // patch * patch, (image_size // patch + 1) * patch
    nearest = f"{below} or {above}" if below else f"{above}"
    raise InputError(
        f"INPUT.SIZE {image_size}: the {patch} pixel patches of backbone {tower.name} do not divide it; take {nearest}"
    )


def take_grid(model: Any, positions: int) -> None:
    """Give a timm model the size whose number of positions, prefix included, a weight file holds.

    So the file's positions are loaded unchanged and resized once, by the method asked for. Numbers that make no square
    change nothing: loading will report what does not fit. DINOv2's files may have a position for the class token where
    timm's model has it in the token.
    """
    own = getattr(model, "pos_embed", None)
    if isinstance(own, Tensor) and positions != own.shape[1] and hasattr(model, "set_input_size"):
        sides = {prefix: round(max(0, positions - prefix) ** 0.5) for prefix in (_prefix(model), 1, 0)}
        side = next((side for prefix, side in sides.items() if side**2 + prefix == positions), 0)
        if side:
            model.set_input_size(img_size=(side * model.patch_embed.patch_size[0],) * 2)


def _resize_timm(model: Any, image_size: int, way: str) -> None:
    """Let timm rebuild everything that depends on the size; then resize the positions by the method asked for.

    Swin keeps its largest window of each stage: timm cuts windows to a smaller grid.
    """
    positions, before = getattr(model, "pos_embed", None), model.patch_embed.grid_size
    stages: Any = model.layers if isinstance(model, SwinTransformer) else ()
    (model.patch_embed if stages else model).set_input_size(img_size=(image_size, image_size))
    for index, stage in enumerate(stages):
        grid = tuple(-(-side // 2 ** max(index - 1, 0)) for side in model.patch_embed.grid_size)
        stage.set_input_size(feat_size=grid, window_size=max(block.window_size for block in stage.blocks))
    if isinstance(positions, Tensor):
        model.pos_embed = _resampled(positions, before, model.patch_embed.grid_size, _prefix(model), way)


def _resize_open_clip(visual: Any, image_size: int, way: str) -> None:
    """Resize the positions of an open_clip tower."""
    before, patch = visual.grid_size, visual.patch_size[0]
    visual.image_size, visual.grid_size = (image_size, image_size), (image_size // patch,) * 2
    positions = visual.positional_embedding
    resampled = _resampled(positions[None], before, visual.grid_size, len(positions) - before[0] * before[1], way)
    visual.positional_embedding = nn.Parameter(resampled.data[0], requires_grad=resampled.requires_grad)


def _resampled(
    positions: Tensor, before: tuple[int, int], after: tuple[int, int], prefix: int, way: str
) -> nn.Parameter:
    """Resize positions (1, prefix + h w, D) from a grid of `before` to one of `after`."""
    own, grid = positions.detach().split([prefix, before[0] * before[1]], dim=1)
    if before != after:
        pixels = grid.unflatten(1, before).permute(0, 3, 1, 2).float()
        grid = F.interpolate(pixels, size=after, **WAYS[way]).flatten(2).transpose(1, 2).to(own.dtype)
    return nn.Parameter(torch.cat([own, grid], dim=1), requires_grad=positions.requires_grad)


def _prefix(model: Any) -> int:
    """Return how many of a timm model's positions belong to prefix tokens."""
    return 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 0)
