"""Visual Prompt Tuning, shallow and deep (Jia et al., ECCV 2022, arXiv:2203.12119)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.errors import InputError, check_share
from vpt.parts.heads import Head, HeadMethod


class Prompt(HeadMethod):
    """Learned tokens between a frozen ViT's class token and its patches, and a linear head.

    `num_tokens`: number of prompts P. `deep`: every block has its own prompts (VPT-deep), else only the first
    (VPT-shallow). `project`: width d of the prompts, which one linear layer for all blocks projects to the width D of
    the tokens; -1 for d = D without projection. `dropout`: dropout of the projected prompts, drawn for each image.
    `head_init`: init of the classifier, "small" or "published".

    Learns `prompt_embeddings` (1, P, d), with `deep` `deep_prompt_embeddings` (blocks - 1, P, d), with `project`
    `prompt_proj.{weight, bias}`, and `head.last_layer.{weight, bias}`.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        num_tokens: int = 10,
        deep: bool = False,
        project: int = -1,
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        if num_tokens < 1:
            raise InputError(f"num_tokens is {num_tokens}; prompt tuning needs at least one prompt token")
        check_share("dropout", dropout)
        self.dropout = dropout
        self.make_prompts(num_tokens, project if project > 0 else backbone.width, deep)
        self.prompt_proj: nn.Module = nn.Identity()
        if project > 0:
            self.prompt_proj = nn.Linear(project, backbone.width)
            nn.init.kaiming_normal_(self.prompt_proj.weight, mode="fan_out")
        self.prompt_dropout = nn.Dropout(dropout)
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def make_prompts(self, count: int, dim: int, deep: bool) -> None:
        """Draw `count` prompts of width `dim` for the first block, or for all blocks."""
        if not self.backbone.depth:
            raise self.backbone.refusal()
        bound = init_bound(self.backbone.patch_size, dim)
        self.prompt_embeddings = nn.Parameter(torch.empty(1, count, dim).uniform_(-bound, bound))
        if deep:
            others = torch.empty(self.backbone.depth - 1, count, dim)
            self.deep_prompt_embeddings = nn.Parameter(others.uniform_(-bound, bound))

    def embeddings(self) -> list[Tensor]:
        """Return the prompts of each prompted block, (P, d): the rows of the method's own parameters."""
        return [block for parameter in self.parameters(recurse=False) for block in parameter]

    def prompts(self, batch: int) -> list[Tensor]:
        """Return the prompts as they enter each block, (P, D), or with dropout (B, P, D)."""
        prompts = [self.prompt_proj(block) for block in self.embeddings()]
        if self.training and self.dropout:
            return [self.prompt_dropout(block.expand(batch, *block.shape)) for block in prompts]
        return prompts

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with prompts into features (B, E); each block's prompts replace those before."""
        first, *others = self.prompts(images.shape[0])
        return prompted_features(self.backbone, images, first, others)


def init_bound(patch: int, dim: int) -> float:
    """Return the half-width of the uniform prompt init: Xavier over one RGB patch and one token (appendix A)."""
    return math.sqrt(6 / (3 * patch**2 + dim))
