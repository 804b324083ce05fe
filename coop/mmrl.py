"""MMRL: multi-modal representation learning (Guo and Gu, CVPR 2025, arXiv:2503.08497)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from coop.parts.representation import Representations, Tokens
from promptvision.backbones import CLIP


class Projected(nn.Module):
    """The tokens `compound_rep_tokens` (K, d), and linear maps of them into each block of each tower."""

    def __init__(self, n_tokens: int, dim: int, clip: CLIP, blocks: int):
        super().__init__()
        self.compound_rep_tokens = nn.Parameter(torch.empty(n_tokens, dim).normal_(std=0.02))
        self.compound_rep_tokens_r2vproj, self.compound_rep_tokens_r2tproj = (
            nn.ModuleList([nn.Linear(dim, width) for _ in range(blocks)])
            for width in (clip.image.width, clip.text.width)
        )


class MMRL(Representations):
    """Tokens of a space of `dim` numbers that a linear map of its own takes to each block of each tower.

    `copy_projection`: whether f_r's projection starts as that of CLIP's class token, not from N(0, 1 / D) as in the
    official code. `dim`: d, the numbers of a token in the shared space.
    Learns `representation_learner.compound_rep_tokens`, `.compound_rep_tokens_r2tproj` and `_r2vproj`, and
    `image_encoder.proj_rep` (D, E).
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *, n_tokens: int = 5, dim: int = 512, layers: Sequence[int] = (),
        alpha: float = 0.7, weight: float = 1.0, templates: Sequence[str] = (), fuse: bool = True,
        logit_scale: float = 0.0, copy_projection: bool = True,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        tower = backbone.image
        self.representation_learner = Projected(n_tokens, dim, backbone, len(self.layers))
        start = self.projection.detach().float()
        start = start.clone() if copy_projection else torch.randn_like(start) * tower.width**-0.5
        self.image_encoder = nn.ParameterDict({"proj_rep": start})

    def tokens(self) -> Tokens:
        """Return the tokens of each of `layers` by maps of their own, and the learned projection of f_r."""
        learner = self.representation_learner
        own = learner.compound_rep_tokens
        return Tokens(
            text=[projection(own) for projection in learner.compound_rep_tokens_r2tproj],
            image=[projection(own) for projection in learner.compound_rep_tokens_r2vproj],
            projection=self.image_encoder["proj_rep"],
        )
