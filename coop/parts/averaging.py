"""Averages of learned tensors over the epochs of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from promptvision.errors import InputError
from promptvision.method import Method


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Weights of epochs 1 to `epochs` in the average, a Gaussian over them, summing to 1 (GPA of arXiv:2307.06948)."""
    if std <= 0:
        raise InputError(f"the standard deviation of the average over epochs is {std}; it must be positive")
    nearest = min((epoch - mean) ** 2 for epoch in range(1, epochs + 1))
    heights = [math.exp((nearest - (epoch - mean) ** 2) / (2 * std**2)) for epoch in range(1, epochs + 1)]
    return [height / sum(heights) for height in heights]


class EpochAverage:
    """The weighted sum of a method's learned parameters at the ends of epochs; the last epoch puts it in their place.

    `tensors`: the sum up to now, by official name.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def end_epoch(self, method: Method, epoch: int, weights: list[float]) -> None:
        """Add the parameters as they are after epoch `epoch`, from 0, of `len(weights)`."""
        learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
        before = self.tensors if epoch else {}
        self.tensors = {name: before.get(name, 0) + weights[epoch] * p for name, p in learned.items()}
        if epoch == len(weights) - 1:
            for name, parameter in learned.items():
                parameter.copy_(self.tensors[name])

    def load(self, method: Method, state: Mapping[str, Tensor]) -> None:
        """Go on from `tensors` of another time, where they fit the method's learned parameters."""
        learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
        if state and {name: t.shape for name, t in state.items()} != {name: p.shape for name, p in learned.items()}:
            raise InputError("its average over the epochs is not one of what this method learns")
        self.tensors = {name: tensor.to(learned[name].device) for name, tensor in state.items()}
