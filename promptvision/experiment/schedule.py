"""The schedule of a run from the OPTIM keys: its steps, its epochs, and the learning rate of each."""

from __future__ import annotations

import math

from yacs.config import CfgNode

from promptvision.data.loader import count_batches
from promptvision.engine.optim import learning_rates
from promptvision.errors import InputError


def base_rate(cfg: CfgNode) -> float:
    """Return OPTIM.LR, with OPTIM.SCALE_LR for the images of a step (VPT's tune_*.py: LR / 256 x BATCH_SIZE)."""
    optim = cfg.OPTIM
    return optim.LR / 256 * (optim.BATCH_SIZE * optim.ACCUMULATE) if optim.SCALE_LR else optim.LR


def batches_per_epoch(cfg: CfgNode, images: int) -> int:
    """Return the batches of an epoch of so many images."""
    return count_batches(images, cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.DROP_LAST)


def steps_per_epoch(cfg: CfgNode, batches: int) -> int:
    """Return the steps of an epoch of `batches`: one for every OPTIM.ACCUMULATE of them, and one for the rest."""
    return math.ceil(batches / cfg.OPTIM.ACCUMULATE)


def steps(cfg: CfgNode, batches: int) -> int:
    """Return the steps of a run whose epoch has `batches`: OPTIM.ITERATIONS (for each shot), or those of EPOCHS."""
    optim, shots = cfg.OPTIM, cfg.DATASET.SHOTS
    if not optim.ITERATIONS or not optim.EPOCHS:
        return optim.EPOCHS * steps_per_epoch(cfg, batches)
    if optim.SCALE_ITERATIONS and not shots:
        raise InputError(
            "OPTIM.SCALE_ITERATIONS multiplies ITERATIONS by DATASET.SHOTS, which is 0 (all images): set "
            "OPTIM.SCALE_ITERATIONS false and OPTIM.ITERATIONS to the steps of the whole run"
        )
    return optim.ITERATIONS * (shots if optim.SCALE_ITERATIONS else 1)


def epochs(cfg: CfgNode, batches: int) -> int:
    """Return the epochs of the whole run; the last one may end early."""
    return math.ceil(steps(cfg, batches) / steps_per_epoch(cfg, batches))


def per_step(cfg: CfgNode) -> bool:
    """Return whether every step has its own learning rate."""
    return bool(cfg.OPTIM.ITERATIONS) or cfg.OPTIM.SCHEDULE_PER != "epoch"


def rates(cfg: CfgNode, batches: int = 1) -> list[float]:
    """Return the learning rate of every epoch, or with `per_step` of every step, where an epoch has `batches`."""
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
        return [rate for rate in found for _ in range(steps_per_epoch(cfg, batches))][:total]
    return found
