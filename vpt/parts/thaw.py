"""Parts of a frozen backbone that are tuned without anything added: its biases, its class token."""

from __future__ import annotations

import torch
from torch import nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError


def thaw_biases(backbone: nn.Module) -> None:
    """Let every bias of a backbone learn: BitFit (arXiv:2106.10199), the `tinytl-bias` of VPT's code.

    A bias is a parameter whose own name says so (`bias`, `in_proj_bias`): those of the patch embedding, of the norms,
    of attention and MLP; not the class token and not the positions.
    """
    biases = [p for name, p in backbone.named_parameters() if "bias" in name.rpartition(".")[2]]
    if not biases:
        raise InputError(f"backbone {getattr(backbone, 'name', '')!r} has no biases to tune; choose another method")
    for bias in biases:
        bias.requires_grad_(True)


def thaw_class_token(tower: ImageTower, reinit: bool = False) -> None:
    """Let the class token learn, (1, 1, D) in timm, (D,) in CLIP; `reinit` starts it from N(0, 1e-6) (VPT's code)."""
    token = class_token(tower)
    if reinit:
        with torch.no_grad():
            token.normal_(std=1e-6)
    token.requires_grad_(True)


def class_token(tower: ImageTower) -> nn.Parameter:
    """Return the class token of a tower, `cls_token` in timm's models and `class_embedding` in CLIP's."""
    model = getattr(tower, "model", tower)
    for name in ("cls_token", "class_embedding"):
        token = getattr(model, name, None)
        if isinstance(token, nn.Parameter):
            return token
    raise InputError(f"backbone {tower.name!r} has no class token to tune; choose a ViT that has one")
