"""What the OPTIM keys say of time: how many steps a run has, how many epochs, and the learning rate of each."""

from __future__ import annotations

import math

from yacs.config import CfgNode

from promptvision.engine.optim import learning_rates
from promptvision.errors import InputError


def base_rate(cfg: CfgNode) -> float:
    """OPTIM.LR, with OPTIM.SCALE_LR for a step of BATCH_SIZE images (VPT's tune_*.py: LR / 256 x BATCH_SIZE)."""
    return cfg.OPTIM.LR / 256 * cfg.OPTIM.BATCH_SIZE if cfg.OPTIM.SCALE_LR else cfg.OPTIM.LR


def steps(cfg: CfgNode, batches: int) -> int:
    """Steps of the whole run where an epoch has `batches`: OPTIM.ITERATIONS (for each shot), or those of EPOCHS."""
    optim, shots = cfg.OPTIM, cfg.DATASET.SHOTS
    if not optim.ITERATIONS or not optim.EPOCHS:
        return optim.EPOCHS * batches
    if optim.SCALE_ITERATIONS and not shots:
        raise InputError(
            "OPTIM.SCALE_ITERATIONS multiplies ITERATIONS by DATASET.SHOTS, which is 0 (all images): set "
            "OPTIM.SCALE_ITERATIONS false and OPTIM.ITERATIONS to the steps of the whole run"
        )
    return optim.ITERATIONS * (shots if optim.SCALE_ITERATIONS else 1)


def epochs(cfg: CfgNode, batches: int) -> int:
    """Epochs of the whole run; the last may end early."""
    return math.ceil(steps(cfg, batches) / batches)


def per_step(cfg: CfgNode) -> bool:
    """Whether every step has a rate of its own."""
    return bool(cfg.OPTIM.ITERATIONS) or cfg.OPTIM.SCHEDULE_PER != "epoch"


def rates(cfg: CfgNode, batches: int = 1) -> list[float]:
    """The learning rate of every epoch, or, where `per_step`, of every step; `batches` per epoch matter only there."""
    optim, total = cfg.OPTIM, steps(cfg, batches)
    length = {"epoch": epochs(cfg, batches), "step": total, "epoch_as_step": optim.EPOCHS}[optim.SCHEDULE_PER]
    found = learning_rates(
        optim.SCHEDULE,
        base_rate(cfg),
        length,
        steps=optim.STEPS,
        gamma=optim.GAMMA,
        warmup_epochs=optim.WARMUP_EPOCHS,
        warmup_type=optim.WARMUP_TYPE,
        warmup_lr=optim.WARMUP_LR,
        warmup_recount=optim.WARMUP_RECOUNT,
        min_lr=optim.MIN_LR,
        count=length if optim.SCHEDULE_PER == "epoch" else total,
    )
    if optim.SCHEDULE_PER == "epoch" and optim.ITERATIONS:
        return [rate for rate in found for _ in range(batches)][:total]
    return found
