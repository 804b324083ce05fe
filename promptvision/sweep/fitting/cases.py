"""The four cases of transfer: few or many images, near to the pretraining or far from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MANY = 100
"""Training images per class, on average, from which there are many."""
REACHED = 0.75
"""Share of the linear accuracy above chance that zero-shot or k-NN must reach, if the images are near."""
APART = 0.1
"""Difference of cosines within and between classes, see `contrast`, from which features tell the classes apart."""


@dataclass(frozen=True)
class Case:
    """The facts that decide the case: the number of images per class, and how near they are to the pretraining.

    `untrained`, `linear`: accuracies of zero-shot or k-NN, and of a linear classifier. `apart`: see `contrast`.
    """

    per_class: float
    classes: int
    untrained: float
    linear: float
    apart: float

    @property
    def many(self) -> bool:
        """Return whether there are enough images to change every weight."""
        return self.per_class >= MANY

    @property
    def reached(self) -> float:
        """Return the share of the linear accuracy above chance that is reached without training."""
        chance = 100 / self.classes
        return min(1.0, max(0.0, self.untrained - chance) / (self.linear - chance)) if self.linear > chance else 0.0

    @property
    def near(self) -> bool:
        """Return whether the features, as they are, know these classes."""
        return self.reached >= REACHED and self.apart >= APART

    @property
    def name(self) -> tuple[str, str]:
        """Return the case as the table of candidates has it."""
        return "many" if self.many else "few", "near" if self.near else "far"


def contrast(features: Tensor, labels: Tensor) -> float:
    """Return the mean cosine of images of one class minus that of images of different classes, for centred features.

    All classes count equally, whatever their size. About 0 if the features do not tell the classes apart.
    """
    counts = labels.bincount().float().clamp_min(1)[:, None]
    means = torch.zeros(len(counts), features.shape[1]).index_add(0, labels, features.float()) / counts
    rows = F.normalize(features.float() - means.mean(dim=0), dim=-1)
    sums = torch.zeros_like(means).index_add(0, labels, rows)
    pairs = counts * (counts - 1)
    within = ((sums.square().sum(dim=1, keepdim=True) - counts) / pairs)[pairs > 0].mean()
    means = sums / counts
    between = (means.sum(dim=0).square().sum() - means.square().sum()) / (len(means) * (len(means) - 1))
    return float(within - between)
