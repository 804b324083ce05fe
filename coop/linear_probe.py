"""Linear probe of CLIP's image features (Radford et al., arXiv:2103.00020, A.3), searched as CoOp does it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from coop.parts.features import all_features
from promptvision.backbones import CLIP
from promptvision.errors import InputError
from promptvision.method import Batches, Method

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
STEPS = 8


def search_c(accuracy: Callable[[float], float]) -> float:
    """The C that validation `accuracy` prefers: the best of COARSE, then STEPS halvings of a decade to either side.

    In each step the better end of the interval stays and the other moves to the middle; the last step's better end
    is taken. Ties go to the larger C on the coarse grid, to the smaller one after it (CoOp, lpclip/linear_probe.py).
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
    """Logistic regression on the image features as the tower gives them, not normalised (CoOp, lpclip).

    `c`: inverse strength of the L2 penalty; 0 searches it on the validation images. Learns `weight` (C, E) and
    `bias` (C,), all at once in `prepare`, by scikit-learn's L-BFGS.
    """

    backbone: CLIP
    frozen_images = True
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
        """Fit; where `c` is to be searched, on the validation images."""
        features, labels = _numbers(self.backbone, train)
        _refuse_missing(labels, self.classes)
        fit = cache(lambda c: _fit(features, labels, c))
        best = self.c
        if not best:
            others, wanted = _numbers(self.backbone, val)
            if not len(wanted):
                raise InputError("the search for C needs validation images; there are none, so set METHOD.OPTIONS.C")
            best = search_c(lambda c: float((fit(c).predict(others) == wanted).mean()))
        self._keep(fit(best))

    def _keep(self, model: LogisticRegression) -> None:
        weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        if len(self.classes) == 2:  # scikit-learn fits one row: the difference of the two
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.image.as_features(images).to(self.weight.dtype) @ self.weight.T + self.bias


def _numbers(clip: CLIP, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    features, labels = all_features(clip, batches)
    return features.double().cpu().numpy(), labels.cpu().numpy()


def _refuse_missing(labels: np.ndarray, classes: Sequence[str]) -> None:
    there = set(labels.tolist())
    for label, name in enumerate(classes):
        if label not in there:
            raise InputError(f"class {name!r} has no training image; a linear probe needs one of every class")


def _fit(features: np.ndarray, labels: np.ndarray, c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a large C on few images: as published
        return LogisticRegression(C=c, solver="lbfgs", max_iter=1000).fit(features, labels)
