"""The AdamW of VPT's code (KMnP/vpt `src/solver/optimizer.py`), which differs from torch's and reproduces its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class VPTAdamW(Optimizer):
    """AdamW of VPT: p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps), then p -= lr decay p, on the new value.

    `eps` is added to sqrt(v) before the bias correction; betas are 0.9 and 0.999.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0, eps: float = 1e-6):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every tensor that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            lr, (first, second) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
                state["step"] += 1
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                size = lr * math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
                parameter.addcdiv_(state["mean"], state["square"].sqrt().add_(group["eps"]), value=-size)
                parameter.mul_(1 - lr * group["weight_decay"])
        return loss
