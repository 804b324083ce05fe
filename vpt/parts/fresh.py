"""Backbones, or their last parts, with newly drawn weights: training from scratch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from timm.models import named_apply
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError
from vpt.parts.attach import own_blocks

FINAL_NORMS = ("norm", "fc_norm", "head.norm", "ln_post")
"""What timm and open_clip call the norm between the last block and the feature."""


def last_parts(tower: ImageTower, count: int) -> list[nn.Module]:
    """The last `count` blocks of a tower, or stages of one made of stages (Swin, ConvNeXt, ResNet)."""
    parts = _parts(tower)
    if not parts:
        raise InputError(f"backbone {tower.name!r} has neither blocks nor stages of which the last could be tuned")
    if not 0 <= count <= len(parts):
        raise InputError(f"blocks is {count}; backbone {tower.name!r} has {len(parts)} blocks or stages to tune")
    return parts[len(parts) - count :]


def final_norms(tower: ImageTower) -> list[nn.Module]:
    """The norms behind the last block; none in a ResNet."""
    modules = dict(_model(tower).named_modules())
    return [modules[name] for name in FINAL_NORMS if name in modules]


def draw_anew(tower: ImageTower, parts: Sequence[nn.Module] = ()) -> None:
    """Replace the weights of these parts of the tower (none: of all) by a start as timm or open_clip draw it."""
    fresh = dict(_fresh(tower).named_modules())
    names = {id(module): name for name, module in tower.named_modules()}
    for part in parts or [tower]:
        part.load_state_dict(fresh[names[id(part)]].state_dict())


@torch.no_grad()
def _fresh(tower: ImageTower) -> ImageTower:
    """A newly drawn copy; what nothing drew stays NaN and is looked for, so that no trained weight is left in it."""
    copy = deepcopy(tower)
    for parameter in copy.parameters():
        parameter.fill_(math.nan)
    for module in copy.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset:
            reset()
    _as_the_library(_model(copy))
    for name, parameter in copy.named_parameters():
        if not parameter.isfinite().all():
            _draw_own(copy, name, parameter)
    return copy


def _as_the_library(model: Any) -> None:
    """What timm does on top of each layer's own start, in the model's `init_weights` or its file's `_init_weights`."""
    each = getattr(sys.modules[type(model).__module__], "_init_weights", None)
    if hasattr(model, "init_weights"):
        model.init_weights()
    elif each:
        named_apply(each, model)


def _draw_own(tower: ImageTower, name: str, parameter: Tensor) -> None:
    """Parameters that no layer owns: CLIP's embeddings and projection, ConvNeXt's layer scale."""
    own = name.rpartition(".")[2]
    if own in ("class_embedding", "positional_embedding", "proj") and tower.width:
        parameter.normal_(std=tower.width**-0.5)
    elif own == "gamma":
        parameter.fill_(1e-6)
    else:
        raise InputError(f"backbone {tower.name!r} does not say how {own!r} starts from scratch")


def _model(tower: ImageTower) -> Any:
    return getattr(tower, "model", tower)


def _parts(tower: ImageTower) -> list[nn.Module]:
    blocks, model = own_blocks(tower), _model(tower)
    if blocks:
        return blocks
    for name in ("stages", "layers"):
        if isinstance(getattr(model, name, None), nn.Sequential | nn.ModuleList):
            return list(getattr(model, name))
    return [getattr(model, f"layer{index}") for index in range(1, 5) if hasattr(model, f"layer{index}")]
