"""Everything that decides the result of a pretraining, and the optimizers that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Recipe:
    """Sizes, rates and schedule of a pretraining; with one thread they and the world decide every bit of the result.

    The rate rises for `warm_up` steps, stays for the share `constant` of the steps and falls linearly to the share
    `last` of its peak.
    """

    pairs: int = 1_700_000
    batch: int = 256
    seed: int = 0
    muon_rate: float = 4e-3
    adamw_rate: float = 2e-3
    decay: float = 0.05
    momentum: float = 0.95
    newton_schulz: int = 4
    betas: tuple[float, float] = (0.9, 0.98)
    warm_up: int = 100
    constant: float = 0.4
    last: float = 0.01
    clip: float = 1.0
    side: int = 32
    patch: int = 8
    width: int = 128
    layers: int = 4
    head_width: int = 32
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    embed_dim: int = 128

    @property
    def steps(self) -> int:
        """Return the number of batches."""
        return math.ceil(self.pairs / self.batch)

    def factor(self, step: int) -> float:
        """Return the learning rate of a step as a share of its peak."""
        falling = (step / self.steps - self.constant) / (1 - self.constant)
        return min(1, (step + 1) / self.warm_up) * (1 - (1 - self.last) * max(0, falling))


def build_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks, and AdamW for the rest, without decay of vectors and embeddings."""
    tables = ("token_embedding.weight", "positional_embedding", "pos_embed", "cls_token")
    named = list(model.named_parameters())
    matrices = [p for name, p in named if "blocks." in name and p.ndim == 2]
    rest = [(name, p) for name, p in named if not ("blocks." in name and p.ndim == 2)]
    plain = [p for name, p in rest if p.ndim < 2 or name.endswith(tables)]
    decayed = [p for name, p in rest if p.ndim >= 2 and not name.endswith(tables)]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": plain, "weight_decay": 0.0}]
    muon = torch.optim.Muon(
        matrices, lr=recipe.muon_rate, weight_decay=recipe.decay, momentum=recipe.momentum,
        adjust_lr_fn="match_rms_adamw", ns_steps=recipe.newton_schulz,
    )  # fmt: skip
    return [muon, torch.optim.AdamW(groups, lr=recipe.adamw_rate, betas=recipe.betas, eps=1e-6)]
