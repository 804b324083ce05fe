"""Averages of learned tensors over the epochs of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from promptvision.errors import InputError
from promptvision.method import Method


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Weigh epochs 1 to `epochs` by a Gaussian over them; the weights sum to 1 (GPA of arXiv:2307.06948)."""
    if std <= 0:
        raise InputError(f"the standard deviation of the average over epochs is {std}; it must be positive")
    nearest = min((epoch - mean) ** 2 for epoch in range(1, epochs + 1))
    heights = [math.exp((nearest - (epoch - mean) ** 2) / (2 * std**2)) for epoch in range(1, epochs + 1)]
    return [height / sum(heights) for height in heights]


class EpochAverage:
    """The weighted sum of a method's learned parameters at the ends of epochs, which they become after the last epoch.

    `tensors`: the sum so far, by name.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def end_epoch(self, method: Method, epoch: int, weights: list[float]) -> None:
        """Add the parameters as they are after epoch `epoch`, from 0, of `len(weights)`."""
        learned = method.trained()
        before = self.tensors if epoch else {}
        self.tensors = {name: before.get(name, 0) + weights[epoch] * p for name, p in learned.items()}
        if epoch == len(weights) - 1:
            for name, parameter in learned.items():
                parameter.copy_(self.tensors[name])

    def load(self, method: Method, state: Mapping[str, Tensor]) -> None:
        """Resume from the `tensors` of an earlier run if they fit the method's learned parameters."""
        learned = method.trained()
        if state and {name: t.shape for name, t in state.items()} != {name: p.shape for name, p in learned.items()}:
            raise InputError("its average over the epochs is not one of what this method learns")
        self.tensors = {name: tensor.to(learned[name].device) for name, tensor in state.items()}
