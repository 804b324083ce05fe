"""Visual Prompt Tuning of Swin Transformers, whose tokens live in windows and grow wider from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.swin import prompted_swin_features, stage_sizes
from promptvision.errors import InputError
from promptvision.method import Method
from vpt.parts.heads import Head
from vpt.parts.locations import init_bound


class SwinPrompt(Method):
    """Prompt tokens in every window of a frozen Swin (`promptvision.backbones.swin`), and a linear head.

    `num_tokens`: P. `deep`: new prompts at every block, else only at the first. `dropout`: on the prompts,
    independently per image. `pool_prompts`: the final mean is over prompts and patches (as published), else over
    patches alone. `head_init`: "small" or "published". There is no `project`: the official code makes that layer for
    Swin, but never uses it.

    Learns `prompt_embeddings` (1, P, D), with `deep` `deep_prompt_embeddings_0` (blocks of stage 0 - 1, P, D) and
    `deep_prompt_embeddings_{i}` (blocks of stage i, P, 2^i D), and `head.last_layer.{weight, bias}`.
    """

    backbone: ImageTower
    no_decay = frozenset({"head.last_layer.bias"})

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        num_tokens: int = 10,
        deep: bool = False,
        dropout: float = 0.0,
        pool_prompts: bool = True,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        if num_tokens < 1:
            raise InputError(f"num_tokens is {num_tokens}; prompt tuning needs at least one prompt token")
        sizes = stage_sizes(backbone)
        bound = init_bound(backbone.patch_size, sizes[0][1])
        shapes = {"prompt_embeddings": (1, num_tokens, sizes[0][1])}
        for stage, (blocks, width) in enumerate(sizes if deep else []):
            shapes[f"deep_prompt_embeddings_{stage}"] = (blocks - (stage == 0), num_tokens, width)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.names, self.pool_prompts = list(shapes), pool_prompts
        self.prompt_dropout = nn.Dropout(dropout)
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E): what the head sees."""
        rows = [prompts for name in self.names for prompts in getattr(self, name)]
        if self.training and self.prompt_dropout.p:
            rows = [self.prompt_dropout(prompts.expand(len(images), -1, -1)) for prompts in rows]
        return prompted_swin_features(self.backbone, images, rows[0], rows[1:], self.pool_prompts)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
