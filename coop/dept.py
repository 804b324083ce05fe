"""DePT: decoupled prompt tuning (Zhang et al., CVPR 2024, arXiv:2309.07439)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coop.parts.addition import Addition
from coop.parts.objective import Comparing, Step
from promptvision.backbones import CLIP
from promptvision.errors import InputError


class Film(nn.Module):
    """A scale and a shift of each channel, (..., E) -> same, the identity at first."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.scale + self.bias


class DePT(Addition, Comparing):
    """A linear head beside a prompt method, which takes over what only the classes of the training need.

    The head sees image features and, as further examples of their classes, text features, each through a scale and a
    shift of its own: L = (1 - w) L_similarity + w L_linear, plus the host's other terms. Images are classified among
    classes of the training by (1 - w) times the similarities plus w times the head, else by the similarities alone.

    `host`: the method that it is added to, coop, kg_coop, cocoop, maple, prompt_src or at_prompt, whose options are
    options here too. `linear_weight`: the paper's w, the head's share of the loss and of the logits. `rate_factor`:
    factor of the learning rate of the head, scales and shifts.
    Learns what the host learns, `film_lp_img`, `film_lp_text` and `linear_probe_proj`.
    """

    rows: Tensor
    """The label that each class had in the training, (C,)."""

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        host: str = "coop", linear_weight: float = 0.7, rate_factor: float = 6.5, **of_host: Any,
    ):  # fmt: skip
        super().__init__(backbone, classes, **of_host)
        if not 0 <= linear_weight <= 1:
            raise InputError(f"linear_weight is {linear_weight:g}; it is a share, from 0 to 1")
        if rate_factor <= 0:
            raise InputError(f"rate_factor is {rate_factor:g}; it must be above 0, and 1 is the rate of the host")
        self.linear_weight, dim = linear_weight, backbone.image.feature_dim
        self.film_lp_img, self.film_lp_text = Film(dim), Film(dim)
        self.linear_probe_proj = nn.Linear(dim, len(self.trained_classes))
        labels = self.trained_labels
        self.fused = -1 not in labels
        self.register_buffer("rows", torch.tensor(labels), persistent=False)
        added = ("film_lp_img.", "film_lp_text.", "linear_probe_proj.")
        self.rate_factors = {name: rate_factor for name in self.trained() if name.startswith(added)}

    def objective(self, step: Step, reduction: str = "mean") -> Tensor:
        texts, every = step.text_features, torch.arange(len(step.labels), device=step.labels.device)
        labels = step.labels.clamp(min=0)  # one below 0 is left out of the cross-entropy
        own = texts[labels] if texts.dim() == 2 else texts[every, labels]
        both = self.film_lp_text(own), self.film_lp_img(step.image_features)
        linear = [self.cross_entropy(self.linear_probe_proj(each), step.labels, reduction) for each in both]
        similarity, share = super().objective(step, reduction), self.linear_weight
        return (1 - share) * similarity + share * torch.stack(linear).mean(dim=0)

    def prediction(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        similarity = super().prediction(image_features, text_features)
        if not self.fused:
            return similarity
        linear = self.linear_probe_proj(self.film_lp_img(image_features))[:, self.rows]
        return (1 - self.linear_weight) * similarity + self.linear_weight * linear
