"""Linear probe of CLIP's image features (Radford et al., arXiv:2103.00020, A.3), searched as CoOp does it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from coop.parts.teacher import all_features, check_every_class
from promptvision.backbones import CLIP
from promptvision.errors import InputError
from promptvision.method import Batches, Method

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
STEPS = 8
SMALL = 10**8
"""Multiplications of features and weights up to which threads cost a fit more than they save."""


def search_c(accuracy: Callable[[float], float]) -> float:
    """Find the C with the best validation `accuracy`: the best of COARSE, then STEPS halvings of a decade around it.

    In each step the better end of the interval stays and the other moves to the middle; the result is the better end of
    the last step. Ties go to the larger C on the coarse grid, then to the smaller (CoOp, lpclip/linear_probe.py).
    """
    middle = math.log10(max(COARSE, key=accuracy))
    left, right, best = middle - 1, middle + 1, middle
    for _ in range(STEPS):
        middle = (left + right) / 2
        if accuracy(10**left) < accuracy(10**right):
            best, left = right, middle
        else:
            best, right = left, middle
    return 10**best


class LinearProbe(Method):
    """Logistic regression on the image features of the tower, not normalised (CoOp, lpclip).

    `c`: inverse strength of the L2 penalty; 0 searches it on the validation images. Learns `weight` (C, E) and
    `bias` (C,) in `prepare`, by scikit-learn's L-BFGS.
    """

    backbone: CLIP
    frozen_images = True
    stackable = True  # it has no steps, and shares image features
    weight: Tensor
    bias: Tensor

    def __init__(self, backbone: CLIP, classes: Sequence[str], *, c: float = 0.0):
        super().__init__(backbone, classes)
        if c < 0:
            raise InputError(f"c is {c:g}; a linear probe takes a positive number, or 0 to search one")
        if len(classes) < 2:
            raise InputError(f"a linear probe needs two classes or more, not only {classes[0]!r}")
        self.c = c
        self.register_buffer("weight", torch.zeros(len(classes), backbone.image.feature_dim))
        self.register_buffer("bias", torch.zeros(len(classes)))

    def prepare(self, train: Batches, val: Batches) -> None:
        """Fit the regression, with `c` or with the best C on the validation images."""
        features, labels = numbers(self.backbone, train)
        check_every_class(self.classes, torch.from_numpy(labels), "a linear probe")
        fit = cache(lambda c: regression(features, labels, c))
        with threadpool_limits(1 if features.size * len(self.classes) < SMALL else None, "blas"):
            best = self.c or self._best_c(fit, val)
            weight, bias = torch.from_numpy(fit(best).coef_), torch.from_numpy(fit(best).intercept_)
        if len(self.classes) == 2:  # scikit-learn fits one row: the difference of the two
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def _best_c(self, fit: Callable[[float], LogisticRegression], val: Batches) -> float:
        """Return the C that is best on the validation images."""
        others, wanted = numbers(self.backbone, val)
        if not len(wanted):
            raise InputError("the search for C needs validation images; there are none, so set METHOD.OPTIONS.C")
        return search_c(cache(lambda c: float((fit(c).predict(others) == wanted).mean())))

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.image.as_features(images).to(self.weight.dtype) @ self.weight.T + self.bias


def numbers(clip: CLIP, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Return image features (N, E) in float64 and labels (N,) as arrays."""
    features, labels = all_features(clip, batches)
    return features.double().cpu().numpy(), labels.cpu().numpy()


def regression(features: np.ndarray, labels: np.ndarray, c: float) -> LogisticRegression:
    """Fit a logistic regression with inverse penalty `c`, without a warning if it does not converge."""
    with warnings.catch_warnings(), config_context(skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a large C on few images: as published
        return LogisticRegression(C=c, solver="lbfgs", max_iter=1000).fit(features, labels)
