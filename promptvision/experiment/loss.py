"""The OPTIM and TRAIN keys that change a method's loss or the end of its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.data.images import Item
from promptvision.errors import InputError
from promptvision.method import Method

POWERS = {"inverse": 1.0, "inverse_sqrt": 0.5}
"""OPTIM.CLASS_WEIGHTS: a class with n training images has a weight in proportion to n to the minus this power."""


def check_loss(cfg: CfgNode, method: Method) -> None:
    """Raise InputError for keys of the loss that the method has no use for, and for a PATIENCE that it cannot heed."""
    name, optim = cfg.METHOD.NAME, cfg.OPTIM
    learns = optim.EPOCHS > 0 and any(parameter.requires_grad for parameter in method.parameters())
    for key, default in (("LABEL_SMOOTHING", "0"), ("CLASS_WEIGHTS", '""')):
        if optim[key] and not (learns and method.loss_on_labels):
            why = "has no such loss" if learns else "learns nothing step by step here"
            raise InputError(
                f"OPTIM.{key} changes the cross-entropy with the labels, but {name} {why}; set OPTIM.{key} {default}"
            )
    at_ends = type(method).end_epoch is not Method.end_epoch
    if cfg.TRAIN.PATIENCE and (at_ends or len(method.stages) > 1):
        what = "does at the end of an epoch" if at_ends else "learns in each of its stages"
        raise InputError(
            f"TRAIN.PATIENCE ends training early, but what {name} {what} depends on the number of epochs; "
            "set TRAIN.PATIENCE 0"
        )


def set_loss(cfg: CfgNode, method: Method, train: Sequence[Item], device: torch.device) -> None:
    """Give the method the loss of these training images."""
    method.label_smoothing = cfg.OPTIM.LABEL_SMOOTHING
    if cfg.OPTIM.CLASS_WEIGHTS:
        labels = torch.tensor([label for _, label, _ in train])
        weights = class_weights(labels, len(method.classes), POWERS[cfg.OPTIM.CLASS_WEIGHTS])
        method.class_weights = weights.float().to(device)


def class_weights(labels: Tensor, classes: int, power: float) -> Tensor:
    """Return weights (C,) in proportion to n^-power for n of the `labels` (N,), whose mean over the N images is 1.

    With power 1 they are N / (C n), scikit-learn's "balanced". A class without images has weight 0.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0.0)
    return weights * len(labels) / (weights * counts).sum()
