"""RanPAC: ridge regression on randomly projected features (McDonnell et al., NeurIPS 2023, arXiv:2307.02251)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.errors import InputError
from vpt.parts.first_task import FirstTask

RIDGES = [10.0**power for power in range(-8, 9)]


class RanPAC(FirstTask):
    """A linear head fitted by ridge regression to H = relu(f W), for features f and a fixed W of normal draws.

    G = H^T H and Q = H^T Y, with one-hot labels Y, are summed over all tasks; the head is (G + lambda 1)^-1 Q. Of 17
    powers of ten, lambda is the one whose head of 80 % of the task's images has the least squared error on the rest; in
    the order of a list that may be sorted by class those would be others, so they are drawn.
    `projection`: width M of H; 0 takes f itself. Learns what the host learns without its head and `weight` (C, M); rows
    of classes without images are zero. Keeps `W_rand` (E, M) and `task_of` (C,), the task of each class.
    """

    dropped = frozenset({"head", "G", "Q"})
    remembered = frozenset({"W_rand", "task_of"})
    weight: Tensor
    W_rand: Tensor
    G: Tensor
    Q: Tensor

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        host: str = "adapter",
        head_init: str = "cosine",
        projection: int = 10000,
        **of_host: Any,
    ):
        super().__init__(backbone, classes, host=host, head_init=head_init, **of_host)
        if projection < 0:
            raise InputError(f"projection is {projection}; take the width of a random projection, or 0 for none")
        self.seed = int(torch.randint(2**31, ()))
        self.register_buffer("W_rand", torch.randn(backbone.feature_dim, projection))
        size = projection or backbone.feature_dim
        self.register_buffer("weight", torch.zeros(len(classes), size))
        self.register_buffer("G", torch.empty(0))
        self.register_buffer("Q", torch.empty(0))

    def hidden(self, features: Tensor) -> Tensor:
        """Turn features (N, E) into H (N, M)."""
        return F.relu(features @ self.W_rand) if self.W_rand.shape[1] else features

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Add a task's features, choose lambda on a fifth of them, and solve for the head."""
        if len(labels) < 2:
            raise InputError("RanPAC chooses lambda on a fifth of a task's images, so a task needs two or more")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed + self.task))
        order, cut = order.to(labels.device), int(0.8 * len(labels))
        with torch.autocast(features.device.type, enabled=False):
            hidden = self.hidden(features[order])
            targets = F.one_hot(labels[order], len(self.classes)).to(hidden)
            first, last = hidden[:cut], hidden[cut:]
            gram, cross = first.T @ first, first.T @ targets[:cut]
            errors = [(last @ solve(gram, cross, each) - targets[cut:]).square().mean() for each in RIDGES]
            ridge = RIDGES[int(torch.stack(errors).nan_to_num(torch.inf).argmin())]
            gram, cross = hidden.T @ hidden, hidden.T @ targets
            self.G, self.Q = (self.G + gram, self.Q + cross) if self.task else (gram, cross)
            self.weight = solve(self.G, self.Q, ridge).T.contiguous()

    def classify(self, images: Tensor) -> Tensor:
        features = self.represent(images)
        with torch.autocast(features.device.type, enabled=False):
            return self.hidden(features.to(self.weight)) @ self.weight.T


def solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Return (G + ridge 1)^-1 Q, (M, C); not finite where rounding makes that singular."""
    return torch.linalg.solve_ex(gram + ridge * torch.eye(len(gram)).to(gram), cross).result
