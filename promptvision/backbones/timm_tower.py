"""timm models as image towers: any gives features; VisionTransformers and Evas also take prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import PatchEmbed
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from promptvision.backbones.rotary import rotary_blocks
from promptvision.backbones.towers import IMAGENET_MEAN, IMAGENET_STD, ImageTower
from promptvision.errors import InputError

PROMPTABLE = (VisionTransformer, Eva)
"""Classes whose forward pass is embedding, blocks over all tokens, norm, pooling."""

PAIRWISE = "adds a bias to every pair of its patches, among which prompts have no place; choose a ViT, DINO or EVA-02"
WINDOWS = "keeps its tokens in windows; METHOD.NAME swin_prompt puts prompts into them"
UNKNOWN = "has tokens of an unknown kind; choose a ViT, DINO or EVA-02"
WHY_NOT: dict[type, str] = {
    Beit: PAIRWISE,
    VisionTransformerRelPos: PAIRWISE,
    SwinTransformer: WINDOWS,
    SwinTransformerV2: f"{UNKNOWN}, or a Swin of the first version with METHOD.NAME swin_prompt",
    NaFlexVit: UNKNOWN,
}
"""Reasons why some families with tokens take no prompts."""


class TimmTower(ImageTower):
    """A timm model without its classifier; its features are the input of that classifier."""

    def __init__(self, model: nn.Module, name: str = ""):
        super().__init__()
        self.model = model
        facts = getattr(model, "pretrained_cfg", None) or {}
        self.name = name or facts.get("architecture") or type(model).__name__
        self.feature_dim = int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]
        self.mean, self.std = tuple(facts.get("mean", IMAGENET_MEAN)), tuple(facts.get("std", IMAGENET_STD))
        self.image_size = facts.get("input_size", (3, 224, 224))[-1]
        self.why_no_tokens = WHY_NOT.get(type(model), UNKNOWN if hasattr(model, "pos_embed") else self.why_no_tokens)
        patches = getattr(model, "patch_embed", None)
        size, patch = getattr(patches, "img_size", None), getattr(patches, "patch_size", None)
        self.image_size = size[0] if isinstance(size, tuple) else self.image_size
        self.patch_size = patch[0] if isinstance(patch, tuple) else 0
        if isinstance(model, PROMPTABLE):
            self.width, self.prefix = model.embed_dim, model.num_prefix_tokens
            plain = type(model) in PROMPTABLE and model.attn_pool is None
            self.pools_first = plain and model.global_pool == "token"
        self._rotary = rotary_blocks(model)

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        if not isinstance(self.model, PROMPTABLE):
            return ()
        return self._rotary or self.model.blocks  # type: ignore[return-value]

    @property
    def callers(self) -> Sequence[nn.Module]:  # type: ignore[override]
        return (self.model.blocks,)  # type: ignore[return-value]

    def untouched(self, images: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)  # type: ignore[operator]

    @property
    def _transformer(self) -> Any:
        """Return the model if it takes prompts among its tokens, else raise InputError."""
        if not self.blocks:
            raise self.refusal()
        return self.model

    def embed(self, images: Tensor) -> Tensor:
        model = self._transformer
        found, needed = tuple(images.shape[-2:]), getattr(model.patch_embed, "img_size", None)
        if needed and found != tuple(needed) and getattr(model.patch_embed, "strict_img_size", True):
            raise InputError(f"backbone {self.name} takes images of {needed[0]} x {needed[1]} pixels, not {found}")
        tokens = model._pos_embed(model.patch_embed(images))
        return tokens[0] if isinstance(model, Eva) else model.patch_drop(tokens)

    def enter(self, tokens: Tensor) -> Tensor:
        return self._transformer.norm_pre(tokens)

    def normalize(self, tokens: Tensor) -> Tensor:
        return self._transformer.norm(tokens)

    def project(self, pooled: Tensor) -> Tensor:
        return self._transformer.fc_norm(pooled)

    def pool(self, tokens: Tensor) -> Tensor:
        return self._transformer.forward_head(self.normalize(tokens), pre_logits=True)

    def patchify(self, pixels: Tensor) -> Tensor:
        patches = self._transformer.patch_embed
        if not isinstance(patches, PatchEmbed):
            raise InputError(f"backbone {self.name!r} makes its patches from a convolutional network's features")
        return patches.norm(patches.proj(pixels).flatten(2).transpose(1, 2))

    @property
    def class_position(self) -> Tensor:
        model = self._transformer
        if model.cls_token is None:
            return super().class_position
        positioned = model.pos_embed is not None and not model.no_embed_class
        return model.pos_embed[0, 0] if positioned else model.cls_token.new_zeros(self.width)

    @property
    def stem(self) -> tuple[nn.Module, str]:
        facts = getattr(self.model, "pretrained_cfg", None) or {}
        path = facts.get("first_conv") or ("patch_embed.proj" if hasattr(self.model, "patch_embed") else "")
        parent, _, attribute = path.rpartition(".") if isinstance(path, str) else ("", "", "")
        return (self.model.get_submodule(parent), attribute) if attribute else super().stem
