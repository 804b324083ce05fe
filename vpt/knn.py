"""k nearest neighbours among the training images' frozen features, with DINO's weighted vote (arXiv:2104.14294)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from promptvision.method import Batches, Method

WEIGHTS = ("distance", "uniform")
FLOOR = 1e-9
"""Assumed share of the vote of a class without a neighbour, so that its logarithm is finite."""


class NearestNeighbours(Method):
    """A vote of the k training images with the largest cosine; logits are logarithms of shares of the vote.

    `k`: number of neighbours, at most all training images. `weights`: "distance" gives each neighbour the weight
    exp(cosine / temperature), "uniform" gives all the same. `temperature`: temperature of these weights; DINO has k 20
    and temperature 0.07 (appendix F.1). Learns, from the images as a test sees them,
    `keys` (N, E), their normalised features, and `labels` (N,).
    """

    backbone: ImageTower
    frozen_images = True
    remembered = frozenset({"keys", "labels"})
    keys: Tensor
    labels: Tensor

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        k: int = 20,
        weights: str = "distance",
        temperature: float = 0.07,
    ):
        super().__init__(backbone, classes)
        if weights not in WEIGHTS:
            raise unknown("weights of a vote", weights, WEIGHTS)
        if k < 1 or temperature <= 0:
            raise InputError(f"k and temperature are {k} and {temperature}; take 1 or more, and more than 0")
        self.k, self.weights, self.temperature = k, weights, temperature
        self.register_buffer("keys", torch.empty(0, backbone.feature_dim))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def normalised(self, images: Tensor) -> Tensor:
        """Return the features (B, E) of images at length 1."""
        return F.normalize(self.backbone.as_features(images).float(), dim=-1)

    @torch.no_grad()
    def prepare(self, train: Batches, val: Batches) -> None:
        """Remember the training images."""
        device = self.keys.device
        pairs = [(self.normalised(images.to(device)), labels.to(device)) for images, labels in train]
        if not pairs:
            raise InputError("nearest neighbours need training images; there are none")
        self.keys, self.labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        if not len(self.keys):
            raise InputError("these neighbours have seen no training images yet: call prepare first")
        cosines, nearest = (self.normalised(images) @ self.keys.T).topk(min(self.k, len(self.keys)), dim=1)
        flat = self.weights == "uniform"
        shares = (torch.zeros_like(cosines) if flat else cosines / self.temperature).softmax(dim=1)
        votes = shares.new_zeros(shares.shape[0], len(self.classes)).scatter_add(1, self.labels[nearest], shares)
        return votes.clamp_min(FLOOR).log()

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the memory, which takes the size of the state's."""
        count = len(state["labels"]) if "labels" in state and state["labels"].dim() == 1 else 0
        self.keys, self.labels = self.keys.new_empty(count, self.keys.shape[1]), self.labels.new_empty(count)
        super().load_learned_state(state)
