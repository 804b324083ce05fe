"""Learning rates as closed formulas, and the optimisers by the names of the official codes.

Sources: Dassl.pytorch `dassl/optim/{lr_scheduler,optimizer,radam}.py` (CoOp and its descendants), KMnP/vpt
`src/solver/lr_scheduler.py`. Rates are per epoch; a caller may also read them as rates per step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.vpt_adamw import VPTAdamW
from promptvision.errors import unknown

SCHEDULES = (
    "constant",
    "cosine",
    "single_step",
    "multi_step",
    "vpt_cosine",
    "vpt_cosine_hardrestart",
    "coda_cosine",
    "timm_cosine",
    "petl_cosine",
)
OPTIMIZERS = ("sgd", "adam", "amsgrad", "rmsprop", "radam", "adamw", "vpt_adamw")


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
    """Return the learning rate of each of the first `count` (default: all) epochs of a schedule over `epochs`.

    A warm-up is constant at `warmup_lr`, or linear: `warmup_lr` in epoch 0, then lr e / warmup_epochs. With
    `warmup_recount` the schedule starts after it at its own epoch 0 (and so never reaches its end); without, it
    counts the warm-up, and the cosine is rescaled to start from `lr`, as torch's recursive formula makes it.
    `vpt_cosine` warms up linearly from 0, hence a first epoch at rate 0, and takes its cosine over the rest;
    `vpt_cosine_hardrestart` is the same with the official single cycle, but stays 0 once it got there. Nearly the
    same without the lost epoch: `cosine` with a linear warm-up from `warmup_lr` = lr / warmup_epochs. `coda_cosine` is
    GT-RIPL/CODA-Prompt's: no warm-up, and lr cos(99 pi (e - 1) / (200 (epochs - 1))), which lags an epoch, so that
    epochs 0 and 1 have the full rate. `timm_cosine` is timm's: linear from `warmup_lr` to lr, but the cosine counts the
    warm-up, so that it drops a little at its end; `petl_cosine` is the same an epoch late, as in JieShibo/PETL-ViT.
    `min_lr`: the end of Dassl's and timm's schedules, in place of 0. Beyond its end the cosine rises again.
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    if warmup_type not in ("constant", "linear"):
        raise unknown("type of warm-up", warmup_type, ("constant", "linear"))
    count, warmup = epochs if count is None else count, max(warmup_epochs, 0)
    if schedule.startswith("vpt_"):
        return _vpt_cosine(lr, epochs, warmup, count, periodic=schedule == "vpt_cosine")
    if schedule == "coda_cosine":
        return [lr * math.cos(0.495 * math.pi * max(epoch - 1, 0) / max(epochs - 1, 1)) for epoch in range(count)]
    if schedule in ("timm_cosine", "petl_cosine"):
        times = [max(epoch - 1, 0) if schedule == "petl_cosine" else epoch for epoch in range(count)]
        falls = [min_lr + (lr - min_lr) * (1 + math.cos(math.pi * time / epochs)) / 2 for time in times]
        rises = [warmup_lr + (lr - warmup_lr) * time / max(warmup, 1) for time in times]
        return [rise if time < warmup else fall for time, rise, fall in zip(times, rises, falls, strict=True)]
    shift, start = (warmup, 0) if warmup_recount else (0, warmup)
    ramp = [warmup_lr if warmup_type == "constant" or epoch == 0 else lr * epoch / warmup for epoch in range(warmup)]
    factors = [_dassl_factor(schedule, epoch - shift, start, epochs, steps, gamma) for epoch in range(warmup, count)]
    rest = [min_lr + (lr - min_lr) * factor for factor in factors]
    return (ramp + rest)[:count]


def _dassl_factor(schedule: str, epoch: int, start: int, epochs: int, steps: Sequence[int], gamma: float) -> float:
    """Return the factor of the base rate in an epoch; it is 1 in epoch `start`.

    cosine: (1 + cos(pi t / T)) / 2, rescaled. single_step: gamma per multiple of the last of `steps`, of all epochs
    if that is not positive. multi_step: gamma per entry of `steps`; drops within a counted warm-up never happen.
    """
    if schedule == "constant" or (schedule == "cosine" and epoch == start):
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * epoch / epochs)) / (1 + math.cos(math.pi * start / epochs))
    if schedule == "single_step":
        period = steps[-1] if steps and steps[-1] > 0 else max(epochs, 1)
        return gamma ** (epoch // period - start // period)
    return gamma ** sum(step == 0 or start < step <= epoch for step in steps)


def _vpt_cosine(lr: float, epochs: int, warmup: int, count: int, periodic: bool) -> list[float]:
    """Return the rates of KMnP/vpt: linear from 0 in the warm-up, then a cosine, which stays 0 if not `periodic`."""
    factors = []
    for epoch in range(count):
        progress = (epoch - warmup) / max(1, epochs - warmup)
        if epoch < warmup:
            factors.append(epoch / warmup)
        elif periodic or progress < 1:
            factors.append((1 + math.cos(math.pi * progress)) / 2)
        else:
            factors.append(0.0)
    return [lr * factor for factor in factors]


def build_optimizer(
    name: str,
    named_parameters: Iterable[tuple[str, Tensor]],
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    no_decay: Collection[str] = (),
    eps: float = 1e-8,
    bias_multiplier: float = 1.0,
    rate_factors: Mapping[str, float] | None = None,
) -> Optimizer | None:
    """Return the optimiser of the named tensors that require gradients, a group for each; None if there are none.

    Tensors named in `no_decay` have weight decay 0. Settings are Dassl's: decay is added to the gradient except for
    radam and adamw (decoupled), betas 0.9 and 0.999, rmsprop alpha 0.99, `eps` 1e-8. VPT's SGD and Adam are the same.
    Biases, except a head's last, learn `bias_multiplier` times as fast: `set_rate` keeps each group's `lr_factor`.
    `rate_factors`: by name, further factors, which a warm-up that is the same for all tensors leaves out.
    `vpt_adamw` is the AdamW of VPT's code: with any decay, 0.01 for all tensors except biases, which have none, eps
    1e-6 and no multiplier (`VPTAdamW`); with decay 0 it is not AdamW at all but SGD with momentum.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimiser", name, OPTIMIZERS)
    wanted = [(label, tensor) for label, tensor in named_parameters if tensor.requires_grad]
    if not wanted:
        return None
    groups, official = [], name == "vpt_adamw" and bool(weight_decay)
    for label, tensor in wanted:
        bias = "bias" in label.rpartition(".")[2] and not label.endswith("last_layer.bias")
        factor = bias_multiplier if bias and not official else 1.0
        decay = 0.0 if label in no_decay else weight_decay
        if official:
            decay = 0.0 if "bias" in label else 0.01
        after = (rate_factors or {}).get(label, 1.0)
        rate = {"lr": lr * factor * after, "lr_factor": factor} | ({"own_factor": after} if after != 1 else {})
        groups.append({"params": [tensor], "name": label, "weight_decay": decay, **rate})
    if official:
        return VPTAdamW(groups, lr)
    if name in ("sgd", "vpt_adamw"):
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum, alpha=0.99, eps=eps)
    if name == "radam":
        return torch.optim.RAdam(groups, lr=lr, decoupled_weight_decay=True, eps=eps)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, eps=eps)
    return torch.optim.Adam(groups, lr=lr, amsgrad=name == "amsgrad", eps=eps)


def set_rate(optimizer: Optimizer, lr: float, alike: bool = False) -> None:
    """Set the rate of the optimiser to `lr`, of each group to its multiple of it, without `rate_factors` if `alike`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0) * (1.0 if alike else group.get("own_factor", 1.0))
