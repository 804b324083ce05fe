"""Learning rates as closed formulas, and the optimisers by the names of the official codes.

Sources: Dassl.pytorch `dassl/optim/{lr_scheduler,optimizer,radam}.py` (CoOp and its descendants), KMnP/vpt
`src/solver/lr_scheduler.py`. Rates are per epoch; a caller may also read them as rates per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.vpt_adamw import VPTAdamW
from promptvision.errors import unknown


def constant(epoch: int, start: int, epochs: int, steps: Sequence[int], gamma: float) -> float:
    """1 always."""
    return 1.0


def cosine(epoch: int, start: int, epochs: int, steps: Sequence[int], gamma: float) -> float:
    """(1 + cos(pi t / T)) / 2, rescaled to be 1 at `start`."""
    return (
        1.0 if epoch == start else (1 + math.cos(math.pi * epoch / epochs)) / (1 + math.cos(math.pi * start / epochs))
    )


def single_step(epoch: int, start: int, epochs: int, steps: Sequence[int], gamma: float) -> float:
    """gamma per multiple of the last of `steps` passed since `start`; no positive step: one period of all epochs."""
    period = steps[-1] if steps and steps[-1] > 0 else max(epochs, 1)
    return gamma ** (epoch // period - start // period)


def multi_step(epoch: int, start: int, epochs: int, steps: Sequence[int], gamma: float) -> float:
    """gamma per entry of `steps` passed since `start`: drops within a warm-up that is counted never happen."""
    return gamma ** sum(step == 0 or start < step <= epoch for step in steps)


SCHEDULES: dict[str, Callable[[int, int, int, Sequence[int], float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "single_step": single_step,
    "multi_step": multi_step,
}


def learning_rates(
    schedule: str,
    lr: float,
    epochs: int,
    *,
    steps: Sequence[int] = (),
    gamma: float = 0.1,
    warmup_epochs: int = 0,
    warmup_type: str = "constant",
    warmup_lr: float = 1e-5,
    warmup_recount: bool = True,
    min_lr: float = 0.0,
    count: int | None = None,
) -> list[float]:
    """The learning rate during each of the first `count` (default: all) epochs of a schedule over `epochs`.

    A warm-up is constant at `warmup_lr`, or linear: `warmup_lr` in epoch 0, then lr e / warmup_epochs. With
    `warmup_recount` the schedule begins after it at its own epoch 0 (and so never reaches its end); without, it
    counts the warm-up, and the cosine is rescaled to start from `lr`, as torch's recursive formula makes it.
    `vpt_cosine` warms up linearly from 0, hence a first epoch at rate 0, and takes its cosine over the rest;
    `vpt_cosine_hardrestart` is the same with the official single cycle, but stays 0 once it got there. Nearly the
    same without the lost epoch: `cosine` with a linear warm-up from `warmup_lr` = lr / warmup_epochs.
    `min_lr`: where the schedules but VPT's end, in place of 0. Beyond its end the cosine rises again.
    """
    count = epochs if count is None else count
    if schedule in ("vpt_cosine", "vpt_cosine_hardrestart"):
        return [
            lr * _vpt_factor(epoch, max(warmup_epochs, 0), epochs, schedule == "vpt_cosine") for epoch in range(count)
        ]
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, [*SCHEDULES, "vpt_cosine", "vpt_cosine_hardrestart"])
    if warmup_type not in ("constant", "linear"):
        raise unknown("type of warm-up", warmup_type, ("constant", "linear"))
    warmup = max(warmup_epochs, 0)
    shift, start = (warmup, 0) if warmup_recount else (0, warmup)
    ramp = [warmup_lr if warmup_type == "constant" or epoch == 0 else lr * epoch / warmup for epoch in range(warmup)]
    factors = [SCHEDULES[schedule](epoch - shift, start, epochs, steps, gamma) for epoch in range(warmup, count)]
    rest = [min_lr + (lr - min_lr) * factor for factor in factors]
    return (ramp + rest)[:count]


def _vpt_factor(epoch: int, warmup: int, epochs: int, periodic: bool) -> float:
    if epoch < warmup:
        return epoch / warmup
    progress = (epoch - warmup) / max(1, epochs - warmup)
    return (1 + math.cos(math.pi * progress)) / 2 if periodic or progress < 1 else 0.0


OPTIMIZERS = ("sgd", "adam", "amsgrad", "rmsprop", "radam", "adamw", "vpt_adamw")


def build_optimizer(
    name: str,
    named_parameters: Iterable[tuple[str, Tensor]],
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    no_decay: Collection[str] = (),
    eps: float = 1e-8,
    bias_multiplier: float = 1.0,
) -> Optimizer | None:
    """The optimiser over those of the named tensors that want gradients, one group each; None if there are none.

    Tensors named in `no_decay` have weight decay 0. Settings are Dassl's: decay added to the gradient but for
    radam and adamw (decoupled), betas 0.9 and 0.999, rmsprop alpha 0.99, `eps` 1e-8. VPT's SGD and Adam are the same.
    Biases, but for a head's last, learn `bias_multiplier` times as fast: whoever sets a group's `lr` multiplies it by
    the group's `lr_factor`.
    `vpt_adamw` is the AdamW of VPT's code: whatever decay is asked for, 0.01 for all but the biases, which have none,
    eps 1e-6 and no multiplier (`VPTAdamW`); for decay 0 it is no AdamW at all but SGD with momentum.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimiser", name, OPTIMIZERS)
    wanted = [(label, tensor) for label, tensor in named_parameters if tensor.requires_grad]
    if not wanted:
        return None
    if name == "vpt_adamw" and weight_decay:
        decays = [0.0 if "bias" in label else 0.01 for label, _ in wanted]
        groups = [_group(*pair, lr, decay, 1.0) for pair, decay in zip(wanted, decays, strict=True)]
        return VPTAdamW(groups, lr)
    groups = [
        _group(label, tensor, lr, 0.0 if label in no_decay else weight_decay, _lr_factor(label, bias_multiplier))
        for label, tensor in wanted
    ]
    if name in ("sgd", "vpt_adamw"):
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum, alpha=0.99, eps=eps)
    if name == "radam":
        return torch.optim.RAdam(groups, lr=lr, decoupled_weight_decay=True, eps=eps)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, eps=eps)
    return torch.optim.Adam(groups, lr=lr, amsgrad=name == "amsgrad", eps=eps)


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Let the optimiser go on at rate `lr`, each group at its own multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def _group(label: str, tensor: Tensor, lr: float, decay: float, factor: float) -> dict[str, Any]:
    return {"params": [tensor], "name": label, "weight_decay": decay, "lr": lr * factor, "lr_factor": factor}


def _lr_factor(label: str, bias_multiplier: float) -> float:
    own = label.rpartition(".")[2]
    return bias_multiplier if "bias" in own and not label.endswith("last_layer.bias") else 1.0
