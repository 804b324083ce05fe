"""The schedule of a run from the OPTIM keys: its steps, its epochs, and the learning rate of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from yacs.config import CfgNode

from promptvision.data.images import Item
from promptvision.data.loader import count_batches, groups_of
from promptvision.engine.optim import learning_rates
from promptvision.errors import InputError, counted


def base_rate(cfg: CfgNode) -> float:
    """Return OPTIM.LR, with OPTIM.SCALE_LR for the images of a step (VPT's tune_*.py: LR / 256 x BATCH_SIZE)."""
    optim = cfg.OPTIM
    return optim.LR / 256 * (optim.BATCH_SIZE * optim.ACCUMULATE) if optim.SCALE_LR else optim.LR


def batches_per_epoch(cfg: CfgNode, items: Sequence[Item]) -> int:
    """Return the batches of an epoch of these images."""
    groups = groups_of(items, cfg.OPTIM.ONE_CLASS)
    return sum(count_batches(len(group), cfg.OPTIM.BATCH_SIZE, cfg.OPTIM.DROP_LAST) for group in groups)


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


def alike(cfg: CfgNode, batches: int) -> int:
    """Return how many of the first `rates` belong to a warm-up at rates of its own, which are those of every tensor."""
    optim = cfg.OPTIM
    if optim.SCHEDULE.startswith(("vpt_", "coda_")):
        return 0
    count = optim.WARMUP_EPOCHS if optim.WARMUP_TYPE == "constant" else min(optim.WARMUP_EPOCHS, 1)
    return count * (steps_per_epoch(cfg, batches) if optim.SCHEDULE_PER == "epoch" and optim.ITERATIONS else 1)


def rates(cfg: CfgNode, batches: int = 1, stages: Sequence[float] = (1.0,)) -> list[float]:
    """Return the learning rate of every epoch, or with `per_step` of every step, where an epoch has `batches`.

    The schedule starts again in each of the stages, which are given as shares of the steps (`Method.stages`).
    """
    optim, total, each = cfg.OPTIM, steps(cfg, batches), steps_per_epoch(cfg, batches)
    by_epoch = optim.SCHEDULE_PER == "epoch"
    starts = [*stage_starts(cfg, batches, stages), total]
    found = list[float]()
    for start, end in pairwise(starts):
        length = math.ceil(end / each) - math.ceil(start / each) if by_epoch else end - start
        found += _rates(cfg, optim.EPOCHS if optim.SCHEDULE_PER == "epoch_as_step" else length, length)
    if by_epoch and optim.ITERATIONS:
        return [rate for rate in found for _ in range(each)][:total]
    return found


def stage_starts(cfg: CfgNode, batches: int, stages: Sequence[float]) -> list[int]:
    """Return the first step of every stage, in a schedule per epoch that of an epoch; each has one of them at least."""
    total, each = steps(cfg, batches), steps_per_epoch(cfg, batches) if cfg.OPTIM.SCHEDULE_PER == "epoch" else 1
    count, most = len(stages), math.ceil(total / each)
    if 0 < most < count:
        given = counted(most, "step" if each == 1 else "epoch")
        raise InputError(f"training has {count} stages and {given}; set OPTIM.EPOCHS or OPTIM.ITERATIONS to more")
    rounded = (round(sum(stages[:stage]) * total / each) for stage in range(count))
    return [max(0, min(max(start, n), most - count + n)) * each for n, start in enumerate(rounded)]


def _rates(cfg: CfgNode, length: int, count: int) -> list[float]:
    """Return the first `count` rates of a schedule of so many epochs or steps."""
    optim = cfg.OPTIM
    return learning_rates(
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
        count=count,
    )
