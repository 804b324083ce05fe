"""Cosine classifiers: of class means, and of rows that are learned with a scale."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Module):
    """A classifier whose logits (B, C) are the cosines of features (B, E) with `weight` (C, E), times a `scale`.

    The scale is learned, from 1. Class-incremental codes tune a first task with it (LAMDA-PILOT, RanPAC).
    """

    def __init__(self, feature_dim: int, classes: int):
        super().__init__()
        bound = 1 / math.sqrt(feature_dim)
        self.weight = nn.Parameter(torch.empty(classes, feature_dim).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * cosines(features, self.weight)


def cosines(features: Tensor, rows: Tensor) -> Tensor:
    """Return the cosines (B, C) of features (B, E) with rows (C, E), in the rows' precision; 0 for a row of zeros.

    Autocast is off here: 16 bits do not tell near classes apart.
    """
    with torch.autocast(features.device.type, enabled=False):
        units = F.normalize(features.to(rows), dim=-1)
        return units @ F.normalize(rows, dim=-1).T


def set_means(means: Tensor, features: Tensor, labels: Tensor) -> None:
    """Set the rows (C, ...) of the classes that have features (N, ...) to the mean of these; others stay.

    `labels` (N,): the row of each feature.
    """
    for label in labels.unique():
        own = features[labels == label]
        means[label] = own.mean(dim=0)
