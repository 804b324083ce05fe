"""Parts of a frozen backbone that are tuned without anything added: its biases, its layer norms, its class token."""

from __future__ import annotations

from torch import nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError


def biases(backbone: nn.Module) -> list[nn.Parameter]:
    """Return every bias of a backbone: BitFit (arXiv:2106.10199), the `tinytl-bias` of VPT's code.

    A bias is a parameter whose own name says so (`bias`, `in_proj_bias`): those of the patch embedding, of the norms,
    of attention and MLP; not the class token and not the positions.
    """
    found = [p for name, p in backbone.named_parameters() if "bias" in name.rpartition(".")[2]]
    if not found:
        raise InputError(f"backbone {getattr(backbone, 'name', '')!r} has no biases to tune; choose another method")
    return found


def layer_norms(backbone: nn.Module) -> list[nn.Parameter]:
    """Return the weights and biases of every layer norm of a backbone."""
    norms = [module for module in backbone.modules() if isinstance(module, nn.LayerNorm)]
    found = [parameter for norm in norms for parameter in norm.parameters()]
    if not found:
        raise InputError(f"backbone {getattr(backbone, 'name', '')!r} has no layer norms to tune; choose a transformer")
    return found


def class_token(tower: ImageTower, reinit: bool = False) -> nn.Parameter:
    """Return the class token, `cls_token` (1, 1, D) in timm's models and `class_embedding` (D,) in CLIP's.

    `reinit` draws it from N(0, 1e-6), as VPT's code does.
    """
    model = getattr(tower, "model", tower)
    for name in ("cls_token", "class_embedding"):
        token = getattr(model, name, None)
        if isinstance(token, nn.Parameter):
            if reinit:
                nn.init.normal_(token, std=1e-6)
            return token
    raise InputError(f"backbone {tower.name!r} has no class token to tune; choose a ViT that has one")
