"""Jobs that train together: which can, and doing them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from yacs.config import CfgNode

from promptvision.config import resolved
from promptvision.engine.earlier_run import flat
from promptvision.sweep.completed import Families
from promptvision.sweep.jobs import Job, Outcome, do

LOG = logging.getLogger("promptvision")
DIFFER = ("SEED", "OUTPUT_DIR", "DATASET.SHOTS", "OPTIM.LR", "OPTIM.WEIGHT_DECAY", "OPTIM.EPOCHS")
"""Settings in which jobs that train together may differ."""


def groups_of(jobs: Sequence[Job], families: Families, size: int) -> list[list[int]]:
    """Return the numbers of the jobs in groups of at most `size` that train together, in the order of the jobs.

    A job that cannot is alone; the log says why, once for each cell.
    """
    same, told = defaultdict[str, list[int]](list), set[str]()
    for number, job in enumerate(jobs):
        reason = why_alone(job, families) if size > 1 else "alone"
        if reason and size > 1 and job.name not in told:
            LOG.info("%s trains run by run: %s", job.name, reason)
            told.add(job.name)
        settings = {key: value for key, value in flat(resolved(job.cfg)) if key not in DIFFER}
        same[f"{number}" if reason else repr(settings)].append(number)
    return sorted(numbers[start : start + size] for numbers in same.values() for start in range(0, len(numbers), size))


def why_alone(job: Job, families: Families) -> str:
    """Return why no other job can train together with this one, "" if one can."""
    cfg = job.cfg
    if job.search:
        return "a search decides by itself what it trains"
    if cfg.CONTINUAL.TASKS or cfg.CONTINUAL.DATASETS:
        return "a stream of tasks (CONTINUAL) is learned task by task"
    if cfg.LOG.WANDB:
        return "LOG.WANDB records one run at a time"
    if cfg.TRAIN.PRECISION != "fp32":
        return f"TRAIN.PRECISION {cfg.TRAIN.PRECISION} rounds otherwise in a step of many runs"
    if cfg.COMPUTE.CHUNK:
        return f"COMPUTE.CHUNK {cfg.COMPUTE.CHUNK} computes parts of a step again, run by run"
    if cfg.OPTIM.CLASS_WEIGHTS:
        return "OPTIM.CLASS_WEIGHTS gives each run its own loss"
    method = families[cfg.METHOD.FAMILY].METHODS.find(cfg.METHOD.NAME, cfg.METHOD.OPTIONS.get("HOST", ""))
    return "" if method.stackable else f"the steps of {cfg.METHOD.NAME} cannot be computed together"


def do_together(jobs: Sequence[Job], families: Families, *, progress: bool = False) -> list[Outcome]:
    """Do jobs that train together; return the outcome of each, in their order."""
    if len(jobs) == 1:
        return [do(jobs[0], families, progress=progress)]
    from promptvision.engine.together.stack import Member, Stack  # torch, which a dry run need not spend seconds on
    from promptvision.sweep.shared_backbone import sharing

    shared = sharing(families, unchanged=True)

    def work(job: Job, member: Member) -> Outcome:
        return do(job, shared, member=member)

    return Stack([partial(work, job) for job in jobs]).run()


def train_ahead(configs: Sequence[CfgNode], families: Families, size: int, overwrite: bool = False) -> None:
    """Train runs that can in groups of up to `size`; a run that fails is tried again when its result is asked for."""
    jobs = [Job(Path(cfg.OUTPUT_DIR).name, cfg, overwrite=overwrite) for cfg in configs]
    for group in groups_of(jobs, families, size):
        if len(group) > 1:
            do_together([jobs[number] for number in group], families)
