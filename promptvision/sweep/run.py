"""The loop of a sweep: the jobs of a board are done, here, in workers or on a cluster, and the board shows progress."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext

from rich.console import Console, Group
from rich.live import Live

from promptvision.engine.progress import log_to_terminal
from promptvision.sweep.completed import Families
from promptvision.sweep.jobs import Job
from promptvision.sweep.local import Event, do_here, do_in_workers
from promptvision.sweep.progress import Board

LOG = logging.getLogger("promptvision")
ROWS = 20
"""Cells of a live table: those with running jobs, and the last ones with news."""


def work_off(
    board: Board,
    families: Families,
    console: Console,
    *,
    ray: str | None = None,
    gpus: float = 0.0,
    stack: int = 1,
    part_done: Callable[[], None] | None = None,
) -> list[str]:
    """Do the jobs that are not finished, and return a sentence for each failure.

    Progress is a live table on a terminal, else lines of log. `ray`, `gpus`: address of a cluster, and GPUs per job.
    `stack`: the most jobs that train together.
    `part_done` is called when all jobs of a part are finished and others are left.
    """
    todo = [number for number, outcome in enumerate(board.outcomes) if outcome is None]
    if not console.is_terminal:
        log_to_terminal()
    jobs, quiet = [board.jobs[number] for number in todo], console.is_terminal
    events = start(jobs, families, board.at_once, stack, ray, gpus, quiet)
    live = Live(
        console=console,
        get_renderable=lambda: Group(board.table(ROWS), board.line() + board.finish()),
        refresh_per_second=2,
    )
    with live if console.is_terminal else nullcontext(), closing(events):
        for event in events:
            event = event._replace(number=todo[event.number])
            board.note(event)
            log_event(board, event)
            part = board.jobs[event.number].part
            left = [job.part for job, outcome in zip(board.jobs, board.outcomes, strict=True) if outcome is None]
            if part_done and event.outcome and not event.again and left and part not in left:
                part_done()
    return [sentence for outcome in board.outcomes if outcome for sentence in outcome.failures]


def start(
    jobs: Sequence[Job], families: Families, at_once: int, stack: int, ray: str | None, gpus: float, quiet: bool
) -> Generator[Event, None, None]:
    """Return the events of doing these jobs."""
    if ray is not None:
        from promptvision.sweep.ray_cluster import do_on_cluster  # an extra, and seconds to import

        return do_on_cluster(jobs, families, ray, gpus)
    if at_once > 1:
        return do_in_workers(jobs, families, at_once, stack)
    return do_here(jobs, families, stack, progress=not quiet)


def log_event(board: Board, event: Event) -> None:
    """Log an event in one line, with the state of the board when a job has finished."""
    title = board.jobs[event.number].title
    if event.outcome is None:
        LOG.info("Started: %s", title)
        return
    for sentence in event.outcome.failures:
        LOG.warning("Failed%s: %s", ", will be tried again" if event.again else "", sentence)
    LOG.info("Finished: %s; %s%s", title, board.line(), board.finish())
