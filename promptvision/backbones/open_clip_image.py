"""Image towers of open_clip: those of blocks show them, all others only give features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from promptvision.backbones.towers import ImageTower


class OpenClipImage(ImageTower):
    """The image tower of an open_clip model; `projected=False` stops before the projection into the text space."""

    def __init__(self, model: nn.Module, name: str = "", projected: bool = True):
        super().__init__()
        visual: Any = model
        self.model, self.name, self.projected = model, name, projected
        self.mean = tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
        self.std = tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD)
        size = visual.image_size
        self.image_size = size[0] if isinstance(size, tuple) else size
        if isinstance(visual, VisionTransformer):
            self.width, self.patch_size = visual.conv1.out_channels, visual.patch_size[0]
            self.feature_dim = visual.output_dim if projected else self.width
            self.pools_first = visual.attn_pool is None and visual.pool_type == "tok"
        elif getattr(visual, "output_dim", None):
            self.feature_dim = visual.output_dim
        else:  # a wrapped timm model
            layers = [module.out_features for module in visual.head.modules() if isinstance(module, nn.Linear)]
            self.feature_dim = layers[-1] if layers else visual.trunk.num_classes or visual.trunk.num_features

    @property
    def blocks(self) -> nn.ModuleList | tuple[()]:  # type: ignore[override]
        visual = self.model
        known = isinstance(visual, VisionTransformer) and visual.pool_type != "none"
        return cast(VisionTransformer, visual).transformer.resblocks if known else ()

    @property
    def callers(self) -> Sequence[nn.Module]:  # type: ignore[override]
        return (self.model, cast(VisionTransformer, self.model).transformer)

    def untouched(self, images: Tensor) -> Tensor:
        return self.model(images) if self.projected else super().untouched(images)

    def embed(self, images: Tensor) -> Tensor:
        if not self.blocks:
            return super().embed(images)
        visual: Any = self.model
        patches = self.patchify(images)
        cls = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        return visual.patch_dropout(torch.cat([cls, patches], dim=1) + visual.positional_embedding.to(patches.dtype))

    def enter(self, tokens: Tensor) -> Tensor:
        return self.model.ln_pre(tokens)  # type: ignore[operator]

    def normalize(self, tokens: Tensor) -> Tensor:
        return self.model.ln_post(tokens)  # type: ignore[operator]

    def project(self, pooled: Tensor) -> Tensor:
        return pooled @ self.model.proj if self.projected else pooled  # type: ignore[operator]

    def patchify(self, pixels: Tensor) -> Tensor:
        if not self.blocks:
            return super().patchify(pixels)
        return self.model.conv1(pixels).flatten(2).transpose(1, 2)  # type: ignore[operator]

    @property
    def stem(self) -> tuple[nn.Module, str]:
        return (self.model, "conv1") if hasattr(self.model, "conv1") else super().stem

    @property
    def class_position(self) -> Tensor:
        return self.model.positional_embedding[0] if self.blocks else super().class_position  # type: ignore[index]

    def pool(self, tokens: Tensor) -> Tensor:
        visual: Any = self.model
        late = visual.final_ln_after_pool and visual.attn_pool is None
        if visual.attn_pool is not None:
            tokens = visual.attn_pool(tokens)
        tokens = tokens if late else self.normalize(tokens)
        pooled = tokens[:, 0] if visual.pool_type == "tok" else tokens[:, 1:].mean(dim=1)
        return self.project(self.normalize(pooled) if late else pooled)
