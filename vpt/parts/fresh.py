"""Random weights for a backbone or its last parts: training from scratch."""

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
from promptvision.errors import InputError, counted
from vpt.parts.attach import own_blocks

FINAL_NORMS = ("norm", "fc_norm", "head.norm", "ln_post")
"""Names in timm and open_clip of the norm between the last block and the feature; a ResNet has none."""


def last_parts(tower: ImageTower, count: int) -> list[nn.Module]:
    """Return the last `count` blocks, or stages (Swin, ConvNeXt, ResNet), and the norms after them."""
    model: Any = getattr(tower, "model", tower)
    modules, parts = dict(model.named_modules()), own_blocks(tower)
    for name in ("stages", "layers"):
        if not parts and isinstance(modules.get(name), nn.Sequential | nn.ModuleList):
            parts = list(modules[name])
    parts = parts or [modules[name] for name in ("layer1", "layer2", "layer3", "layer4") if name in modules]
    if not parts:
        raise InputError(f"backbone {tower.name!r} has neither blocks nor stages of which the last could be tuned")
    if not 0 <= count <= len(parts):
        raise InputError(
            f"blocks is {count}; backbone {tower.name!r} has "
            f"{counted(len(parts), 'block or stage', 'blocks or stages')} to tune"
        )
    norms = [modules[name] for name in FINAL_NORMS if name in modules]
    return [*parts[len(parts) - count :], *norms]


@torch.no_grad()
def reinitialize(tower: ImageTower, parts: Sequence[nn.Module] = ()) -> None:
    """Replace the weights of these parts of the tower (none: of all) by random ones, as timm or open_clip draw them.

    Each layer draws its own; then timm's `init_weights` of the model or `_init_weights` of its file goes over them.
    What none of them draws stays NaN and is found, so that no trained weight is left.
    """
    fresh = deepcopy(tower)
    for parameter in fresh.parameters():
        parameter.fill_(math.nan)
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset:
            reset()
    model: Any = getattr(fresh, "model", fresh)
    draw = getattr(sys.modules[type(model).__module__], "_init_weights", None)
    if hasattr(model, "init_weights"):
        model.init_weights()
    elif draw:
        named_apply(draw, model)
    for name, parameter in fresh.named_parameters():
        if not parameter.isfinite().all():
            _draw(tower, name, parameter)
    modules, names = dict(fresh.named_modules()), {id(module): name for name, module in tower.named_modules()}
    for part in parts or [tower]:
        part.load_state_dict(modules[names[id(part)]].state_dict())


def _draw(tower: ImageTower, name: str, parameter: Tensor) -> None:
    """Draw a parameter that no layer owns: CLIP's embeddings and projection, ConvNeXt's layer scale."""
    own = name.rpartition(".")[2]
    if own in ("class_embedding", "positional_embedding", "proj") and tower.width:
        parameter.normal_(std=tower.width**-0.5)
    elif own == "gamma":
        parameter.fill_(1e-6)
    else:
        raise InputError(f"backbone {tower.name!r} does not define how {own!r} starts from scratch")
