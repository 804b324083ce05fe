"""Candidates on held-out images: their runs, as far as time allows."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from torch import Tensor
from yacs.config import CfgNode

from promptvision.config import changed
from promptvision.errors import InputError
from promptvision.experiment.data import load_data
from promptvision.sweep.completed import Families
from promptvision.sweep.estimate import total
from promptvision.sweep.fitting.candidates import Candidate
from promptvision.sweep.fitting.clock import Clock, in_words
from promptvision.sweep.fitting.pool import Pool, setup_of
from promptvision.sweep.fitting.score import Score, Tried, score_of
from promptvision.sweep.fitting.task import Task
from promptvision.sweep.fitting.templates import choose_templates
from promptvision.sweep.jobs import Job, Outcome, do, done
from promptvision.sweep.local import do_in_workers
from promptvision.sweep.sample_run import measure_part

WORTH = 60.0
"""Seconds of a candidate's runs from which processes are worth their start."""
RESERVE = 2
"""Runs of a candidate whose time is kept for the last run, which learns from more images."""


@dataclass
class Study:
    """The runs of a fit on the images of `pool`.

    `shared`: the families, with backbones that stay in memory. `texts` (T, C, E): of a CLIP, the features of the
    classes in each of the `templates`; `scale`: its factor of the cosine. `spare`: seconds that the test will take.
    `per_class`: images of each class, on average, that train a run on held-out images. `images`: those of all splits.
    `encoded`: the families for whose tower the images are encoded. `each`: seconds to expect of a candidate's run.
    """

    task: Task
    clock: Clock
    pool: Pool
    shared: Families
    per_class: int
    images: int
    encoded: set[str]
    templates: Sequence[str] = ()
    texts: Tensor | None = None
    scale: float = 1.0
    spare: float = 0.0
    each: float = 0.0
    chosen: dict[tuple[int, ...], list[str]] = field(default_factory=dict)

    def attempt(self, candidate: Candidate, shots: int = 0, *, anyway: bool = False) -> Tried:
        """Try the variants of a candidate as far as time allows, or all of them (`anyway`); finished runs are kept.

        `shots`: training images per class, 0 for all.
        """
        variants, seconds = candidate.variants(), 0.0
        try:
            jobs = [
                [self.job(candidate, cfg) for cfg in self.task.runs(candidate, variant, shots)] for variant in variants
            ]
            todo = [left for own in jobs if (left := [job for job in own if done(job) is None])]
            count, note = (len(todo), "") if anyway or not todo else self.in_time(todo)
            started = time.monotonic()
            note = self.work_off([job for own in todo[:count] for job in own], anyway) or note
            seconds = time.monotonic() - started
        except InputError as error:
            return Tried(candidate, {}, note=f"failed: {error}")
        scores = {number: score for number, own in enumerate(jobs) if (score := _score(own))}
        if not scores:
            return Tried(candidate, {}, note=note)
        best = max(scores, key=lambda number: scores[number].accuracy)
        note = f"{len(scores)} of {len(variants)} settings: {note}" if len(scores) < len(variants) else ""
        return Tried(candidate, variants[best], scores[best], seconds, note)

    def work_off(self, jobs: Sequence[Job], anyway: bool) -> str:
        """Do jobs until time is over; return a note if it is, "" if all are done. InputError for the first failure."""
        started = time.monotonic()
        with closing(self._outcomes(jobs)) as outcomes:
            for count, outcome in enumerate(outcomes, start=1):
                if outcome.failures:
                    raise InputError(outcome.failures[0].partition(": ")[2])
                each = (time.monotonic() - started) / count
                if count < len(jobs) and not anyway and self._late(each, len(jobs) - count):
                    return f"stopped after run {count} of {len(jobs)}: they took longer than expected"
        return ""

    def _outcomes(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        if self.task.jobs > 1 and self.each * len(jobs) > WORTH:
            for event in do_in_workers(jobs, self.task.families, self.task.jobs):
                if event.outcome and not event.again:
                    yield event.outcome
        else:
            yield from (do(job, self.shared) for job in jobs)

    def in_time(self, jobs: Sequence[Sequence[Job]]) -> tuple[int, str]:
        """Return how many of a candidate's variants, each a list of jobs, there is time for, and why not for all.

        A part of the first job is timed, unless encoding its images alone takes too long.
        """
        cfg, folds = jobs[0][0].cfg, len(jobs[0])
        method = self.task.families[cfg.METHOD.FAMILY].METHODS.find(cfg.METHOD.NAME)
        if not method.frozen_images:
            each = self.pool.seconds * len(self.pool.labels) * cfg.OPTIM.EPOCHS
        else:
            each = 0.0 if cfg.METHOD.FAMILY in self.encoded else self.pool.seconds * self.images / folds
        if not self._late(each, folds):
            if method.frozen_images:  # of the other tower of a CLIP, the features of all images are computed here
                setup_of(cfg, self.shared, load_data(cfg)).test_loader("val")
                self.encoded.add(cfg.METHOD.FAMILY)
            each = self.each = total([(measure_part(cfg, self.shared), jobs[0][:1])])[0]
        count = next((n for n in range(len(jobs), 0, -1) if not self._late(each, n * folds)), 0)
        left, needed = self.clock.left(), in_words(each * (len(jobs) * folds + RESERVE))
        note = f"all take about {needed}, with {in_words(left) if left > 0 else 'no time'} left"
        return count, note if count else f"not tried: {note.removeprefix('all take ')}"

    def _late(self, each: float, count: int) -> bool:
        """Return whether `count` runs of `each` seconds, and the last run, take longer than the time left."""
        at_once = max(1, min(self.task.jobs, count)) if each * count > WORTH else 1
        return each * (count / at_once + RESERVE) + self.spare > self.clock.left()

    def job(self, candidate: Candidate, cfg: CfgNode) -> Job:
        """Return a run, with the templates that are best on its training images if the candidate takes them.

        It replaces a run that held out other images in its folder, when there was too little time for all.
        """
        if candidate.templates and self.texts is not None:
            paths = [path for path, _, _ in load_data(cfg).images.train]
            cfg = changed(cfg, ["METHOD.OPTIONS.TEMPLATES", self.best_templates(paths)], self.task.families)
        return Job(candidate.name, cfg, overwrite=True)

    def best_templates(self, paths: Sequence[str]) -> list[str]:
        """Return the templates that are best on some of the images."""
        assert self.texts is not None
        key = tuple(sorted(self.pool.rows[path] for path in paths))
        if key not in self.chosen:
            numbers = choose_templates(*self.pool.of(paths), self.texts, self.scale)
            self.chosen[key] = [self.templates[number] for number in numbers]
        return self.chosen[key]


def _score(jobs: Sequence[Job]) -> Score | None:
    """Return the score of a variant from its runs, None before all of them are finished."""
    outcomes = [outcome for job in jobs if (outcome := done(job))]
    complete = len(outcomes) == len(jobs)
    return score_of([result for outcome in outcomes for result in outcome.results]) if complete else None
