"""The board of a sweep: finished jobs and accuracies of each cell so far, and the time that is left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from statistics import mean, median

from rich.table import Table

from promptvision.sweep.jobs import Job, Outcome, Result
from promptvision.sweep.local import Event


class Board:
    """The state of every job, updated by events and shown as a table.

    `outcomes`: of the jobs that were finished before, None for those to be done.
    """

    def __init__(self, jobs: Sequence[Job], outcomes: Sequence[Outcome | None], at_once: int = 1):
        self.jobs, self.outcomes, self.at_once = jobs, list(outcomes), at_once
        self.started: dict[int, float] = {}
        self.took: dict[int, float] = {}
        self.failing: set[int] = set()
        self.recent = dict.fromkeys(job.name for job in jobs)

    def note(self, event: Event) -> None:
        """Record that a job has started or finished."""
        name, number = self.jobs[event.number].name, event.number
        self.recent.pop(name)
        self.recent[name] = None
        if event.outcome is None:
            self.started[number] = time.monotonic()
            return
        self.took[number] = time.monotonic() - self.started.pop(number)
        self.failing.discard(number)
        if event.outcome.failures:
            self.failing.add(number)
        if not event.again:
            self.outcomes[number] = event.outcome

    def left(self) -> float | None:
        """Return the seconds until all is done, None if unknown.

        A job takes the mean of its cell's jobs so far, else the median of all; those of earlier sweeps count with their
        seconds of training.
        """
        took = dict(self.took)
        for number, outcome in enumerate(self.outcomes):
            seconds = sum(result.get("seconds") or 0.0 for result in outcome.results) if outcome else 0.0
            if seconds:
                took.setdefault(number, seconds)
        if not took:
            return None
        same = defaultdict[str, list[float]](list)
        for number, seconds in took.items():
            same[self.jobs[number].name].append(seconds)
        usual, now, total = median(took.values()), time.monotonic(), 0.0
        for number, job in enumerate(self.jobs):
            if self.outcomes[number] is None:
                expected = mean(same[job.name]) if same[job.name] else usual
                total += max(0.0, expected - (now - self.started.get(number, now)))
        return total / self.at_once

    def results(self) -> dict[str, list[Result]]:
        """Return {cell: results} of the jobs that are done, in the order of the plan."""
        found: dict[str, list[Result]] = {}
        for job, outcome in zip(self.jobs, self.outcomes, strict=True):
            if outcome and outcome.results:
                found.setdefault(job.name, []).extend(outcome.results)
        return found

    def unwritten(self) -> list[tuple[str, Result]]:
        """Return (title, result) of each run and test whose file cannot be written."""
        return [each for outcome in self.outcomes if outcome for each in outcome.unwritten]

    def table(self, most: int = 0) -> Table:
        """Return one row per cell, or the `most` last ones with news."""
        rows = []
        numbers = defaultdict[str, list[int]](list)
        for number, job in enumerate(self.jobs):
            numbers[job.name].append(number)
        for name in list(self.recent)[-most:] if most else numbers:
            outcomes = [outcome for number in numbers[name] if (outcome := self.outcomes[number])]
            accuracies = [result["accuracy"] for outcome in outcomes for result in outcome.results]
            done = sum(not outcome.failures for outcome in outcomes)
            running, failing = (len({*numbers[name]} & {*each}) for each in (self.started, self.failing))
            state = [f"{running} running"] * bool(running) + [f"{failing} failed"] * bool(failing)
            accuracy = f"{mean(accuracies):.2f}" if accuracies else ""
            rows.append((name, f"{done}/{len(numbers[name])}", accuracy, ", ".join(state)))
        columns = ["cell", "done", "accuracy", ""][: 4 if any(row[3] for row in rows) else 3]
        table = Table(*columns, title_justify="left")
        for row in rows:
            table.add_row(*row[: len(columns)])
        return table

    def finish(self) -> str:
        """Return `, until 2026-01-31 17:05`, nothing if the time that is left is unknown or over."""
        seconds = self.left()
        if not seconds:
            return ""
        return time.strftime(", until %Y-%m-%d %H:%M", time.localtime(time.time() + seconds))

    def line(self) -> str:
        """Return `12 of 40 done, 1 failed, 2 running, about 0:03:20 left`."""
        failed = sum(1 for outcome in self.outcomes if outcome and outcome.failures)
        done = sum(1 for outcome in self.outcomes if outcome) - failed
        seconds = self.left()
        rest = "time unknown" if seconds is None else f"about {timedelta(seconds=round(seconds))} left"
        return f"{done} of {len(self.jobs)} done, {failed} failed, {len(self.started)} running, {rest}"
