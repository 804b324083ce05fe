"""Visual Prompt Tuning of Swin Transformers, whose tokens live in windows and grow wider from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.swin import prompted_swin_features, stage_sizes
from vpt.prompt import Prompt, init_bound


class SwinPrompt(Prompt):
    """Prompt tokens in every window of a frozen Swin (`promptvision.backbones.swin`), and a linear head.

    `pool_prompts`: the final mean is over prompts and patches (as published), else over patches only. `num_tokens`:
    number of prompts P. `deep`: every block has its own prompts, else only the first. `dropout`: dropout of the
    prompts, drawn for each image. `head_init`: init of the classifier, "small" or "published". There is no `project`:
    the official code makes that layer for Swin, but never uses it.

    Learns `prompt_embeddings` (1, P, D), with `deep` `deep_prompt_embeddings_0` (blocks of stage 0 - 1, P, D) and
    `deep_prompt_embeddings_{i}` (blocks of stage i, P, 2^i D), and `head.last_layer.{weight, bias}`.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        pool_prompts: bool = True,
        num_tokens: int = 10,
        deep: bool = False,
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes, num_tokens=num_tokens, deep=deep, dropout=dropout, head_init=head_init)
        self.pool_prompts = pool_prompts

    def make_prompts(self, count: int, dim: int, deep: bool) -> None:
        """Draw prompts for the first block, or for all blocks, as wide as the stage they are in."""
        sizes = stage_sizes(self.backbone)
        first, bound = sizes[0][1], init_bound(self.backbone.patch_size, sizes[0][1])
        shapes = {"prompt_embeddings": (1, count, first)}
        for stage, (blocks, width) in enumerate(sizes if deep else []):
            shapes[f"deep_prompt_embeddings_{stage}"] = (blocks - (stage == 0), count, width)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with prompts into features (B, E)."""
        first, *others = self.prompts(images.shape[0])
        return prompted_swin_features(self.backbone, images, first, others, self.pool_prompts)
