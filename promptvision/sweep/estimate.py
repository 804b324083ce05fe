"""The cost of a sweep before it runs: a few steps of each kind of cell are timed on some of its images."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from promptvision.config import resolved
from promptvision.engine.progress import track
from promptvision.errors import InputError, counted
from promptvision.sweep.completed import Families
from promptvision.sweep.cost import Cost
from promptvision.sweep.jobs import Job

SAME = ("METHOD", "BACKBONE", "DATASET", "CONTINUAL", "INPUT", "COMPUTE", "TRAIN", "TEST")
"""Sections in which the cells of one kind agree, beside batch size and optimiser: seed, learning rate and length of the
training may differ."""


@dataclass(frozen=True)
class Estimate:
    """The cost of the jobs that are not finished: seconds, bytes on disk, and the most memory of one run.

    `failures` has a sentence for each kind that cannot run.
    """

    jobs: int
    kinds: int
    seconds: float
    disk: float
    memory: int
    failures: Sequence[str]

    def sentences(self, at_once: int) -> list[str]:
        """Return time, disk and memory in words, for `at_once` runs at a time."""
        total = self.seconds / max(1, min(at_once, self.jobs))
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + total))
        jobs = counted(self.jobs, "cell with its seed is", "cells with their seeds are")
        each = f" in each of {at_once} processes" if at_once > 1 else ""
        return [
            f"{jobs} left, of {counted(self.kinds, 'kind')}",
            f"time: {total / 3600:.2f} hours ({timedelta(seconds=round(total))}); started now, all is done at {at}",
            f"disk: {self.disk / 1e6:,.1f} MB for runs and image features",
            f"memory: up to {self.memory / 1e9:.2f} GB{each}",
        ]


def kind_of(job: Job) -> str:
    """Return what jobs whose steps cost the same have in common."""
    plain = resolved(job.cfg)
    tests = [resolved(cfg)["DATASET"] for cfg in job.evals.values()]
    optim = [plain["OPTIM"][key] for key in ("NAME", "BATCH_SIZE")]
    return repr([[plain[section] for section in SAME], optim, tests])


def estimate(jobs: Sequence[Job], families: Families) -> Estimate:
    """Time each kind among the jobs in another process, which writes to a temporary folder only."""
    kinds = defaultdict[str, list[Job]](list)
    for job in jobs:
        kinds[kind_of(job)].append(job)
    costs, failures = [], []
    for same in track(list(kinds.values()), "timing kinds of cells", "kind"):
        cost = timed(same[0], families)
        if isinstance(cost, Cost):
            costs.append((cost, same))
        else:
            failures.append(cost)
    return Estimate(len(jobs), len(kinds), *total(costs), failures)


def timed(job: Job, families: Families) -> Cost | str:
    """Return the cost of a run of this kind, or the sentence that says why it cannot run."""
    from promptvision.sweep.sample_run import measure  # torch, which a dry run need not import

    modules = tuple((name, family.__name__) for name, family in families.items())
    quietly = partial(logging.disable, logging.CRITICAL)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=quietly) as pool:
        try:
            return pool.submit(measure, job.cfg, job.evals, modules).result()
        except InputError as error:
            return f"{job.name}: {error}"
        except BrokenProcessPool:
            return f"{job.name}: its process died while it was timed, perhaps for lack of memory"


def total(costs: Iterable[tuple[Cost, Sequence[Job]]]) -> tuple[float, float, int]:
    """Return the seconds and the bytes on disk of all jobs, and the most memory of one."""
    from promptvision.experiment.schedule import epochs, steps

    seconds, disk, memory = 0.0, 0.0, 0
    shared: dict[str, tuple[float, float]] = {}
    for cost, jobs in costs:
        shared |= cost.shared
        memory = max(memory, cost.memory)
        for job in jobs:
            runs = job.runs if job.search else 1
            trained = steps(job.cfg, cost.batches) if cost.step else 0
            every = job.cfg.TRAIN.EVAL_EVERY
            validations = epochs(job.cfg, cost.batches) // every if every and trained else 0
            seconds += runs * (cost.seconds + trained * cost.step + validations * cost.validation)
            disk += runs * (cost.disk + trained * cost.disk_per_step)
    return seconds + sum(s for s, _ in shared.values()), disk + sum(b for _, b in shared.values()), memory
