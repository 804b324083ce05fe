"""A timm model as an image tower: any gives features; VisionTransformers also take prompts."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from promptvision.backbones.towers import IMAGENET_MEAN, IMAGENET_STD, ImageTower


class TimmTower(ImageTower):
    """A timm model without its classifier; features are what its head would see."""

    def __init__(self, model: nn.Module, name: str = ""):
        super().__init__()
        self.model = model
        facts = getattr(model, "pretrained_cfg", None) or {}
        self.name = name or facts.get("architecture") or type(model).__name__
        self.feature_dim = int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]
        self.mean, self.std = tuple(facts.get("mean", IMAGENET_MEAN)), tuple(facts.get("std", IMAGENET_STD))
        self.image_size = facts.get("input_size", (3, 224, 224))[-1]
        if isinstance(model, VisionTransformer):
            self.width, self.prefix = model.embed_dim, model.num_prefix_tokens
            self.patch_size = model.patch_embed.patch_size[0]
            self.image_size = (model.patch_embed.img_size or (self.image_size,))[0]
            plain = type(model) is VisionTransformer and model.attn_pool is None
            self.pools_first = plain and model.global_pool == "token"

    @property
    def blocks(self) -> nn.ModuleList | tuple[()]:  # type: ignore[override]
        return self.model.blocks if isinstance(self.model, VisionTransformer) else ()  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)  # type: ignore[operator]

    def embed(self, images: Tensor) -> Tensor:
        if not self.blocks:
            return super().embed(images)
        model: Any = self.model
        return model.patch_drop(model._pos_embed(model.patch_embed(images)))

    def enter(self, tokens: Tensor) -> Tensor:
        return self.model.norm_pre(tokens)  # type: ignore[operator]

    def normalize(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)  # type: ignore[operator]

    def project(self, pooled: Tensor) -> Tensor:
        return self.model.fc_norm(pooled)  # type: ignore[operator]

    def patchify(self, pixels: Tensor) -> Tensor:
        if not self.blocks:
            return super().patchify(pixels)
        patches: Any = self.model.patch_embed
        return patches.norm(patches.proj(pixels).flatten(2).transpose(1, 2))

    @property
    def stem(self) -> tuple[nn.Module, str]:
        facts = getattr(self.model, "pretrained_cfg", None) or {}
        path = facts.get("first_conv") or ("patch_embed.proj" if hasattr(self.model, "patch_embed") else "")
        parent, _, attribute = path.rpartition(".") if isinstance(path, str) else ("", "", "")
        return (self.model.get_submodule(parent), attribute) if attribute else super().stem

    @property
    def class_position(self) -> Tensor:
        model: Any = self.model
        if not self.blocks or model.cls_token is None:
            return super().class_position
        positioned = model.pos_embed is not None and not model.no_embed_class
        return model.pos_embed[0, 0] if positioned else model.cls_token.new_zeros(self.width)

    def pool(self, tokens: Tensor) -> Tensor:
        return self.model.forward_head(self.model.norm(tokens), pre_logits=True)  # type: ignore[operator]
