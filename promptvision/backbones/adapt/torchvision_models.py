"""Models of torchvision as the same models of timm: ViT, Swin, ConvNeXt and ResNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvision.backbones.adapt.converted import ROUND, filled, renamed

VIT = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
CLASSIFIERS = {"VisionTransformer": "heads", "SwinTransformer": "head", "ConvNeXt": "classifier", "ResNet": "fc"}
"""The classifier of each class of torchvision that is converted."""


def features(model: nn.Module, images: Tensor) -> Tensor:
    """Return what enters the last layer of a model's classifier, by torchvision's own forward pass."""
    last, seen = [*getattr(model, CLASSIFIERS[type(model).__name__]).modules()][-1], list[Tensor]()
    handle = last.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[0]


def vit(model: Any) -> nn.Module | None:
    """Return a ViT of torchvision as one of timm."""
    first = model.encoder.layers[0]
    same = VisionTransformer(
        img_size=model.image_size, patch_size=model.patch_size, embed_dim=model.hidden_dim,
        depth=len(model.encoder.layers), num_heads=first.num_heads, mlp_ratio=model.mlp_dim / model.hidden_dim + ROUND,
        num_classes=0, norm_layer=partial(nn.LayerNorm, eps=first.ln_1.eps), weight_init="skip",
    )  # fmt: skip
    return filled(same, renamed(model.state_dict(), VIT, ("heads.",)))


def swin(model: Any) -> nn.Module | None:
    """Return a Swin of torchvision, of the first version, as one of timm."""
    stages = model.features[1::2]
    attention = stages[0][0].attn
    same = SwinTransformer(
        patch_size=model.features[0][0].kernel_size[0], embed_dim=model.features[0][0].out_channels,
        depths=tuple(map(len, stages)), num_heads=tuple(stage[0].attn.num_heads for stage in stages),
        window_size=attention.window_size[0], num_classes=0,
        mlp_ratio=stages[0][0].mlp[0].out_features / stages[0][0].mlp[0].in_features + ROUND,
    )  # fmt: skip
    names = [
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        *((rf"^features\.{2 * index + 1}\.", f"layers.{index}.blocks.") for index in range(len(stages))),
        *((rf"^features\.{2 * index}\.", f"layers.{index}.downsample.") for index in range(1, len(stages))),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
    ]
    state = renamed(model.state_dict(), names, ("head.",))
    return filled(same, {key: state[key] for key in state if not key.endswith("relative_position_index")})


def convnext(model: Any) -> nn.Module | None:
    """Return a ConvNeXt of torchvision as one of timm."""
    stages = model.features[1::2]
    same = ConvNeXt(
        depths=tuple(map(len, stages)), dims=tuple(stage[0].block[0].out_channels for stage in stages), num_classes=0
    )  # fmt: skip
    names = [
        (r"^features\.0\.", "stem."),
        *((rf"^features\.{2 * index + 1}\.", f"stages.{index}.blocks.") for index in range(len(stages))),
        *((rf"^features\.{2 * index}\.", f"stages.{index}.downsample.") for index in range(1, len(stages))),
        (r"\.block\.0\.", ".conv_dw."),
        (r"\.block\.2\.", ".norm."),
        (r"\.block\.3\.", ".mlp.fc1."),
        (r"\.block\.5\.", ".mlp.fc2."),
        (r"\.layer_scale$", ".gamma"),
        (r"^classifier\.0\.", "head.norm."),
    ]
    state = renamed(model.state_dict(), names, ("classifier.2.",))
    return filled(same, {key: each.flatten() if key.endswith(".gamma") else each for key, each in state.items()})


def resnet(model: Any) -> nn.Module | None:
    """Return a ResNet or ResNeXt of torchvision as one of timm, whose tensors have the same names."""
    layers = [model.layer1, model.layer2, model.layer3, model.layer4]
    kind: Any = {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}.get(type(layers[0][0]).__name__)
    if kind is None:
        return None
    same = ResNet(kind, tuple(map(len, layers)), num_classes=0, cardinality=model.groups, base_width=model.base_width)
    state = model.state_dict()
    counts = {key: state[key] for key in state if key.endswith("num_batches_tracked")}
    return filled(same, {**renamed(state, (), ("fc.",)), **counts})


KINDS = {"VisionTransformer": vit, "SwinTransformer": swin, "ConvNeXt": convnext, "ResNet": resnet}
