"""Steps of an optimiser on the device alone: rates are tensors, and no step follows a loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from promptvision.engine.vpt_adamw import VPTAdamW

Changes = Iterator[tuple[Tensor, Tensor]]
"""Tensors of the optimiser or the method, and what they become."""
UNKNOWN = ("nesterov", "dampening", "maximize", "capturable", "differentiable", "fused")


def sgd_numbers(group: Mapping[str, Any], count: int) -> list[float]:
    return [group["lr"]]


def sgd(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any], rate: Tensor) -> Changes:
    """Yield the changes of torch's SGD."""
    if group["weight_decay"]:
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
    if group["momentum"]:
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        gradient = state["momentum_buffer"].mul(group["momentum"]).add_(gradient)
        yield state["momentum_buffer"], gradient
    yield parameter, parameter.addcmul(gradient, rate[0], value=-1)


def adam_numbers(group: Mapping[str, Any], count: int) -> list[float]:
    first, second = group["betas"]
    keep = 1 - group["lr"] * group["weight_decay"]
    return [keep, (1 - second**count) ** 0.5, -(group["lr"] / (1 - first**count))]


def adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any], rate: Tensor) -> Changes:
    """Yield the changes of torch's Adam, AMSGrad and AdamW."""
    (first, second), (keep, correction, size), value = group["betas"], rate, parameter
    if not state:
        state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(parameter)}
        state |= {name: torch.zeros_like(parameter) for name in ("exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"])}
    if group["weight_decay"] and group["decoupled_weight_decay"]:
        value = parameter * keep
    elif group["weight_decay"]:
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
    mean = state["exp_avg"].lerp(gradient, 1 - first)
    square = state["exp_avg_sq"].mul(second).addcmul_(gradient, gradient, value=1 - second)
    yield state["exp_avg"], mean
    yield state["exp_avg_sq"], square
    if group["amsgrad"]:
        square = torch.maximum(state["max_exp_avg_sq"], square)
        yield state["max_exp_avg_sq"], square
    yield parameter, value + mean * size / (square.sqrt() / correction).add_(group["eps"])


def vpt_numbers(group: Mapping[str, Any], count: int) -> list[float]:
    first, second = group["betas"]
    size = group["lr"] * math.sqrt(1 - second**count) / (1 - first**count)
    return [1 - group["lr"] * group["weight_decay"], -size]


def vpt(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any], rate: Tensor) -> Changes:
    """Yield the changes of `VPTAdamW`."""
    (first, second), (keep, size) = group["betas"], rate
    if not state:
        state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
    mean = state["mean"].lerp(gradient, 1 - first)
    square = state["square"].mul(second).addcmul_(gradient, gradient, value=1 - second)
    yield state["mean"], mean
    yield state["square"], square
    yield parameter, (parameter + mean * size / square.sqrt().add_(group["eps"])).mul_(keep)


Rule = tuple[Callable[[Mapping[str, Any], int], list[float]], Callable[..., Changes]]
RULES: dict[type[Optimizer], Rule] = {
    SGD: (sgd_numbers, sgd),
    Adam: (adam_numbers, adam),
    AdamW: (adam_numbers, adam),
    VPTAdamW: (vpt_numbers, vpt),
}
"""Optimiser -> the numbers that change from step to step, of a group and the count of its steps; the changes, given
these numbers in a tensor."""


def unknown_optimizer(optimizer: Optimizer) -> str:
    """Return what is unknown of an optimiser here, "" for nothing."""
    if type(optimizer) not in RULES:
        return f"the optimiser {type(optimizer).__name__}"
    options = (name for group in optimizer.param_groups for name in UNKNOWN if group.get(name))
    return "".join(f"an optimiser with {name}" for name in list(options)[:1])


class DeviceOptimizer:
    """The steps of an optimiser on its own state, from tensors alone: bit for bit its own steps on a CPU.

    The host calls `announce` before and `count` after each step; `step` itself reads nothing from the device and can be
    captured in a graph.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device):
        self.optimizer, self.device = optimizer, device
        self.numbers, self.changes = RULES[type(optimizer)]
        self.rates = self._rates().to(device)

    def _rates(self) -> Tensor:
        """Return the numbers of the next step, a row for each parameter, in double precision as torch computes them."""
        states = self.optimizer.state
        rows = [
            self.numbers(group, int(states[p].get("step", 0) if p in states else 0) + 1)
            for group in self.optimizer.param_groups
            for p in group["params"]
        ]
        return torch.tensor(rows, dtype=torch.double, pin_memory=self.device.type == "cuda")

    def announce(self) -> None:
        """Send the numbers of the next step, at the groups' rates, to the device."""
        self.rates.copy_(self._rates(), non_blocking=True)

    @torch.no_grad()
    def step(self, sound: Tensor) -> None:
        """Update every tensor that has a gradient, if `sound`, a scalar on the device, is true."""
        owned = ((p, group) for group in self.optimizer.param_groups for p in group["params"])
        for (parameter, group), rate in zip(owned, self.rates, strict=True):
            if parameter.grad is None:
                continue
            changes = self.changes(parameter, parameter.grad, self.optimizer.state[parameter], group, rate)
            for tensor, new in changes:
                tensor.copy_(torch.where(sound, new, tensor))

    def count(self) -> None:
        """Count a step that was taken."""
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"] + 1
