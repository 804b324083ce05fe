"""Visual Prompt Tuning, shallow and deep (Jia et al., ECCV 2022, arXiv:2203.12119)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.errors import InputError
from promptvision.method import Method
from vpt.heads import Head


def init_bound(patch: int, dim: int) -> float:
    """Half-width of the uniform prompt init: Xavier over one RGB patch and one token (section 3.2 and appendix A)."""
    return math.sqrt(6 / (3 * patch**2 + dim))


class Prompt(Method):
    """Prompt tokens among a frozen ViT's tokens, and a linear head.

    `num_tokens`: P. `deep`: new prompts at every block, else only at the first. `project`: the prompts' own width d,
    brought to the tokens' width D by one linear layer shared by all blocks; -1 for none. `dropout`: on the prompts,
    after projection, independently per picture. `head_init`: "small" or "published".
    `way`: how the tower is run (`prompted_features`); it changes no result.
    Learns `prompt_embeddings` (1, P, d), with `deep` `deep_prompt_embeddings` (blocks - 1, P, d), with `project`
    `prompt_proj.{weight, bias}`, and `head.last_layer.{weight, bias}`.
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
        project: int = -1,
        dropout: float = 0.0,
        head_init: str = "small",
        way: str = "auto",
    ):
        super().__init__(backbone, classes)
        if not backbone.depth:
            raise InputError(f"backbone {backbone.name!r} has no tokens to put prompts among; choose a ViT")
        if num_tokens < 1:
            raise InputError(f"num_tokens is {num_tokens}; prompt tuning needs at least one prompt token")
        dim = project if project > 0 else backbone.width
        bound = init_bound(backbone.patch_size, dim)
        self.prompt_embeddings = nn.Parameter(torch.empty(1, num_tokens, dim).uniform_(-bound, bound))
        if deep:
            self.deep_prompt_embeddings = nn.Parameter(
                torch.empty(backbone.depth - 1, num_tokens, dim).uniform_(-bound, bound)
            )
        self.prompt_proj = _projection(dim, backbone.width) if project > 0 else nn.Identity()
        self.prompt_dropout = nn.Dropout(dropout)
        self.deep, self.dropout, self.way = deep, dropout, way
        self.head = Head(backbone.feature_dim, len(classes), head_init)

    def _tokens(self, embeddings: Tensor, batch: int) -> Tensor:
        """Prompts (P, d) as they enter a block: (P, D), or with dropout (B, P, D), which differ between pictures."""
        prompts = self.prompt_proj(embeddings)
        return self.prompt_dropout(prompts.expand(batch, -1, -1)) if self.training and self.dropout else prompts

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E): the backbone's pooled feature; the prompts' own outputs are left out of the pool."""
        batch = len(images)
        first = self._tokens(self.prompt_embeddings[0], batch)
        deep = [self._tokens(prompts, batch) for prompts in self.deep_prompt_embeddings] if self.deep else []
        return prompted_features(self.backbone, images, first, deep, self.way)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _projection(dim: int, width: int) -> nn.Linear:
    """(P, d) to (P, D), Kaiming normal by fan-out, as the official code starts it."""
    layer = nn.Linear(dim, width)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer
