"""The log and the progress of long work: coloured log and bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from promptvision.errors import counted, visible

LOG = logging.getLogger("promptvision")
Each = TypeVar("Each")
SOON, EVERY = 10.0, 60.0
"""Seconds until the first line about a piece of work, and between two lines, where no terminal shows a bar."""


class PlainFormatter(logging.Formatter):
    """A formatter in whose messages names are text: one line, or several if the record says `lines`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message with everything escaped that is no visible character."""
        return visible(super().formatMessage(record), lines=getattr(record, "lines", False))


def log_to_terminal() -> None:
    """Send the library's log to stderr and nowhere else: above progress bars on a terminal, else as plain lines."""
    if not any(handler.name == "terminal" for handler in LOG.handlers):
        console = Console(stderr=True)
        handler = RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler()
        handler.setFormatter(PlainFormatter("%(message)s"))
        if not console.is_terminal:
            handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        handler.name = "terminal"
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


class Meter:
    """The progress of one piece of work, used in a `with` statement: a bar on stderr, or lines of log without a
    terminal.

    `total`, of which `done` was done earlier, counts each `unit`; None if unknown. Nothing is shown unless `shown`.
    `stays`: whether the bar remains when the work is finished.
    """

    def __init__(
        self, title: str, total: float | None, unit: str, *, done: float = 0, shown: bool = True, stays: bool = False
    ):
        self.title, self.unit, self.shown = visible(title), unit, shown
        self.expect(total, done)
        self.spoke, self.said = self.started, -1.0
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if shown and (console.is_terminal or console.is_jupyter):
            in_bytes = unit == "byte"
            counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
            columns: Any = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
            screen = sys.stdout.isatty()  # else rich would print on stderr what is meant for a file
            self.bar = Progress(*columns, console=console, transient=not stays, redirect_stdout=screen)
            self.task = self.bar.add_task(self.title, total=total, completed=int(done))

    def expect(self, total: float | None, done: float = 0) -> None:
        """Start the clock for the time that is left."""
        self.total, self.first, self.started = total, done, time.monotonic()

    def update(self, done: float, title: str = "", details: str = "", *, pause: float = EVERY) -> None:
        """Show that `done` of the total is done; `title` and `details` (in lines only) say what is going on.

        Without a terminal, write a line if the last one is `pause` seconds old, or if SOON have passed without any.
        """
        if self.bar:
            self.bar.update(self.task, completed=done, total=self.total, description=visible(title) or self.title)
        now = time.monotonic()
        due = min(pause, SOON) if self.said < 0 else pause
        if self.bar or not self.shown or done == self.said or now - self.spoke < due:
            return
        size = 1e6 if self.unit == "byte" else 1
        of, rest = "", ""
        if self.total is not None:
            of = f"{done / size:,.0f} of "
            left = (now - self.started) / (done - self.first) * (self.total - done) if done > self.first else None
            rest = "" if left is None else f", {timedelta(seconds=round(left))} left"
        whole = round((done if self.total is None else self.total) / size)
        work = f"{whole:,} MB" if self.unit == "byte" else counted(whole, self.unit)
        LOG.info("%s: %s%s%s", (title or self.title) + details, of, work, rest)
        self.spoke, self.said = now, done

    def __enter__(self) -> Meter:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()


def track(
    items: Iterable[Each], title: str, unit: str, total: int | None = None, *, shown: bool = True
) -> Iterator[Each]:
    """Yield the items and show the progress; a work that is done before its first line is due needs none.

    `total`: their number, which is asked from `items` otherwise.
    """
    known: Any = items
    with Meter(title, len(known) if total is None and shown else total, unit, shown=shown) as meter:
        done = 0
        for done, item in enumerate(items, start=1):
            yield item
            meter.update(done)
        if meter.said >= 0:
            meter.update(done, pause=0.0)
