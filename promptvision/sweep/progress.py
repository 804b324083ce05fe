"""A sweep while it runs: what is done of each cell, what came out so far, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from statistics import mean, median

from rich.console import Group
from rich.table import Table
from rich.text import Text

from promptvision.sweep.jobs import Job, Outcome
from promptvision.sweep.local import Event

ROWS = 20
"""Cells that a live table shows: those at work, and the last to have been touched."""


class Board:
    """What is known of every job; fed with events, shown as a table.

    `outcomes`: of the jobs that were finished before, None for those that are to be done.
    """

    def __init__(self, jobs: Sequence[Job], outcomes: Sequence[Outcome | None], at_once: int = 1):
        self.jobs, self.outcomes, self.at_once = jobs, list(outcomes), at_once
        self.begun: dict[int, float] = {}
        self.took: dict[int, float] = {}
        self.failing: set[int] = set()
        self.touched = dict.fromkeys(job.name for job in jobs)

    def note(self, event: Event) -> None:
        """A job was begun, or has ended."""
        name = self.jobs[event.number].name
        self.touched.pop(name)
        self.touched[name] = None
        if event.outcome is None:
            self.begun[event.number] = time.monotonic()
            return
        self.took[event.number] = time.monotonic() - self.begun.pop(event.number)
        if event.outcome.failures:
            self.failing.add(event.number)
        else:
            self.failing.discard(event.number)
        if not event.again:
            self.outcomes[event.number] = event.outcome

    def left(self) -> float | None:
        """Seconds until all is done, from what jobs took so far, of the same cell where it has any; None: unknown.

        What earlier sweeps finished counts with its seconds of training.
        """
        known = {number: seconds for number, seconds in enumerate(map(_seconds, self.outcomes)) if seconds} | self.took
        if not known:
            return None
        same: dict[str, list[float]] = {}
        for number, seconds in known.items():
            same.setdefault(self.jobs[number].name, []).append(seconds)
        usual, now = median(known.values()), time.monotonic()
        total = 0.0
        for number, job in enumerate(self.jobs):
            if self.outcomes[number] is None:
                expected = mean(same[job.name]) if job.name in same else usual
                total += max(0.0, expected - (now - self.begun.get(number, now)))
        return total / self.at_once

    def __rich__(self) -> Group:
        """The cells at work and the last ones touched, and one line for all."""
        return Group(self.table(ROWS), Text(self.line()))

    def table(self, most: int = 0) -> Table:
        """One row per cell, or the `most` last touched ones."""
        table = Table("cell", "done", "accuracy", "", title_justify="left")
        names = list(self.touched)[-most:] if most else list(dict.fromkeys(job.name for job in self.jobs))
        for name in names:
            numbers = [number for number, job in enumerate(self.jobs) if job.name == name]
            table.add_row(name, *self._row(numbers))
        return table

    def line(self) -> str:
        """`12 of 40 done, 1 failed, 2 running, about 0:03:20 left`."""
        failed = sum(1 for outcome in self.outcomes if outcome and outcome.failures)
        done = sum(1 for outcome in self.outcomes if outcome) - failed
        seconds = self.left()
        rest = "time unknown" if seconds is None else f"about {timedelta(seconds=round(seconds))} left"
        return f"{done} of {len(self.jobs)} done, {failed} failed, {len(self.begun)} running, {rest}"

    def _row(self, numbers: Sequence[int]) -> tuple[str, str, str]:
        outcomes = [outcome for number in numbers if (outcome := self.outcomes[number])]
        found = [result["accuracy"] for outcome in outcomes for result in outcome.results]
        done = sum(1 for outcome in outcomes if not outcome.failures)
        running = sum(1 for number in numbers if number in self.begun)
        failing = sum(1 for number in numbers if number in self.failing)
        state = [f"{running} running"] * bool(running) + [f"{failing} failed"] * bool(failing)
        return f"{done}/{len(numbers)}", f"{mean(found):.1f}" if found else "", ", ".join(state)


def _seconds(outcome: Outcome | None) -> float:
    """Of training, in the results of a job."""
    return sum(result.get("seconds") or 0.0 for result in outcome.results) if outcome else 0.0
