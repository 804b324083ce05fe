"""Frozen weights held in 16 bits, so that autocast need not cast them in every step; results are the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import nn
from yacs.config import CfgNode

from promptvision.backbones import CLIP
from promptvision.backbones.blocks import LINEARS
from promptvision.backbones.text import OpenClipText
from promptvision.engine.device import PRECISIONS
from promptvision.method import Method

HELD: dict[type, tuple[str, ...]] = {
    **{kind: ("weight", "bias") for kind in (*LINEARS, nn.Conv2d)},
    nn.MultiheadAttention: ("in_proj_weight", "in_proj_bias"),
    VisionTransformer: ("proj",),
    OpenClipText: ("projection",),
}
"""Modules and those of their parameters that enter only products and convolutions, whose operands autocast casts."""
KNOWN = (OpenClipText, VisionTransformer, ModifiedResNet, TimmVisionTransformer, Eva, SwinTransformer, ConvNeXt, ResNet)
"""Models that use them for nothing else. Some of timm's ask for a weight's dtype and compute in it (XCiT, ConViT)."""
LIBRARIES = ("torch", "timm", "open_clip", "promptvision")


def hold_frozen(cfg: CfgNode, method: Method, *, training: bool = False) -> Method:
    """Hold the frozen weights of a method's backbone and of its teachers' in TRAIN.PRECISION, if that has 16 bits.

    Returns the method, which from then on computes under autocast only. What is made of the weights in float32, the
    identity of cached features and methods for other classes, is made before. A method from elsewhere than the family's
    own package may leave autocast at times: then all stays as it is. `training`: whether training follows.
    """
    dtype = PRECISIONS[cfg.TRAIN.PRECISION]
    methods = [] if dtype == torch.float32 else method.to_half(training)
    if all(type(each).__module__.partition(".")[0] == cfg.METHOD.FAMILY for each in methods):
        for each in methods:
            hold(each, dtype)
    return method


def hold(method: Method, dtype: torch.dtype) -> None:
    """Hold the frozen weights that autocast casts to `dtype` in this precision, in place of float32."""
    backbone = method.backbone
    towers = (backbone.image, backbone.text) if isinstance(backbone, CLIP) else (backbone,)
    named = method.named_parameters(remove_duplicate=False)
    learned = {id(parameter) for name, parameter in named if parameter.requires_grad or name in method.thawed}
    for tower in towers:
        for parameter in _cast_anyway(tower, len(towers) == 2):
            if id(parameter) not in learned:
                parameter.data = parameter.data.to(dtype)


def _cast_anyway(tower: nn.Module, of_clip: bool) -> list[nn.Parameter]:
    """Return the parameters of a tower that autocast casts wherever they are used; none of an unknown tower."""
    libraries = {type(module).__module__.partition(".")[0] for module in tower.modules()}
    if not isinstance(getattr(tower, "model", tower), KNOWN) or not libraries <= set(LIBRARIES):
        return []
    shared = of_clip and getattr(tower, "causal", True)
    found, others = list[nn.Parameter](), {id(parameter) for parameter in _native(tower, shared)}
    for module in tower.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in HELD.get(type(module), ()):
                found.append(parameter)
            else:
                others.add(id(parameter))
    return [parameter for parameter in found if id(parameter) not in others]


def _native(tower: nn.Module, never: bool) -> Iterator[nn.Parameter]:
    """Yield the parameters on a CPU that decide whether torch's attention is computed by its native code.

    It is if input, weight and bias have one dtype, and gives other bits. `never`: the input has 16 bits or a mask of
    numbers, as in CLIP's towers, so that the native code is not used in float32; the bias alone then keeps it away.
    """
    for module in tower.modules():
        if isinstance(module, nn.MultiheadAttention) and module.out_proj.weight.device.type == "cpu":
            yield from module.parameters() if not never or module.in_proj_bias is None else [module.in_proj_bias]
