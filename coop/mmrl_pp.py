"""MMRL++: MMRL with shared, low-rank projections and tokens that are passed on (Guo and Gu, 2025, arXiv:2505.10088)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.representation import Representations, Tokens
from promptvision.backbones import CLIP
from promptvision.errors import InputError


def kaiming(*shape: int) -> Tensor:
    """Draw a matrix from Kaiming's uniform distribution, as torch's linear layers start."""
    return nn.init.kaiming_uniform_(torch.empty(*shape), a=math.sqrt(5))


class Aligner(nn.Module):
    """Maps of tokens (K, d) into the blocks of a tower: W + A_j B_j and a bias of its own for block j.

    `weight` (D, d) is shared; A (D, rank) and B (rank, d), which starts at 0, belong to a block.
    """

    def __init__(self, dim: int, width: int, blocks: int, rank: int):
        super().__init__()
        start = nn.Linear(dim, width)
        self.weight = nn.Parameter(start.weight.detach().clone())
        own = [
            {"A": kaiming(width, rank), "B": torch.zeros(rank, dim), "bias": start.bias.detach().clone()}
            for _ in range(blocks)
        ]
        self.srra = nn.ModuleList([nn.ParameterDict(each) for each in own])

    def forward(self, tokens: Tensor) -> list[Tensor]:
        return [F.linear(tokens, self.weight + own["A"] @ own["B"], own["bias"]) for own in self.srra]  # type: ignore


class Aligned(nn.Module):
    """The tokens `compound_rep_tokens` (K, d), and their maps into each tower."""

    def __init__(self, n_tokens: int, dim: int, clip: CLIP, blocks: int, rank: int):
        super().__init__()
        self.compound_rep_tokens = nn.Parameter(torch.empty(n_tokens, dim).normal_(std=0.02))
        self.srra_r2vproj, self.srra_r2tproj = (
            Aligner(dim, width, blocks, rank)  # one for each tower
            for width in (clip.image.width, clip.text.width)
        )


class MMRLpp(Representations):
    """MMRL whose blocks share a projection, changed by low-rank matrices of each, as f_r shares CLIP's.

    `beta`: share of the projected tokens in what enters a block after the first; the rest is what the block before it
    returned. `rank`: rank of the change of CLIP's projection for f_r. `aligner_rank`: rank of the change of the shared
    projection in each block. `dim` as in `mmrl`.
    Learns `representation_learner.compound_rep_tokens`, `.srra_r2tproj` and `.srra_r2vproj`, `image_encoder.A` (D, r)
    and `image_encoder.B` (r, E).
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *, n_tokens: int = 5, dim: int = 512, layers: Sequence[int] = (),
        alpha: float = 0.7, beta: float = 0.9, weight: float = 1.0, templates: Sequence[str] = (), fuse: bool = True,
        logit_scale: float = 0.0, rank: int = 64, aligner_rank: int = 4,
    ):  # fmt: skip
        if not 0 <= beta <= 1 or min(rank, aligner_rank) < 1:
            given = f"beta is {beta}, rank {rank}, aligner_rank {aligner_rank}"
            raise InputError(f"{given}; beta is a share from 0 to 1, and ranks are at least 1")
        self.share = beta
        super().__init__(backbone, classes)
        tower = backbone.image
        self.representation_learner = Aligned(n_tokens, dim, backbone, len(self.layers), aligner_rank)
        self.image_encoder = nn.ParameterDict(
            {"A": kaiming(tower.width, rank), "B": torch.zeros(rank, tower.feature_dim)}
        )

    def tokens(self) -> Tokens:
        """Return the tokens of each of `layers` by the shared maps, and CLIP's projection with its change for f_r."""
        learner = self.representation_learner
        own = learner.compound_rep_tokens
        return Tokens(
            text=learner.srra_r2tproj(own),
            image=learner.srra_r2vproj(own),
            projection=self.projection + self.image_encoder["A"] @ self.image_encoder["B"],
        )
