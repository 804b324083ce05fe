"""Doing jobs: one after the other in this process, or in worker processes that are replaced when they die."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from promptvision.experiment.build import Families
from promptvision.sweep.jobs import Job, Outcome, do
from promptvision.sweep.shared_backbone import sharing

CONTEXT = multiprocessing.get_context("spawn")
TRIES = 2
"""How often a job is tried."""


class Event(NamedTuple):
    """A job was begun (no outcome), or what came of it; `again`: something failed, and it will be tried again."""

    number: int
    outcome: Outcome | None = None
    again: bool = False


class Queue:
    """Jobs by number, each handed out until it succeeds or was tried TRIES times, failed ones after all others."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs, self.waiting, self.tries = jobs, deque(range(len(jobs))), [0] * len(jobs)

    def next(self) -> int | None:
        """The number of the job to begin, if one is waiting."""
        if not self.waiting:
            return None
        number = self.waiting.popleft()
        self.tries[number] += 1
        return number

    def ended(self, number: int, outcome: Outcome) -> Event:
        """Note what came of a job."""
        again = bool(outcome.failures) and self.tries[number] < TRIES
        if again:
            self.waiting.append(number)
        return Event(number, outcome, again)


def do_here(jobs: Sequence[Job], families: Families, *, progress: bool = False) -> Iterator[Event]:
    """One job after the other, with backbones shared in memory."""
    queue, shared = Queue(jobs), sharing(families)
    while (number := queue.next()) is not None:
        yield Event(number)
        yield queue.ended(number, do(jobs[number], shared, progress=progress))


def do_in_workers(jobs: Sequence[Job], families: Families, count: int) -> Iterator[Event]:
    """`count` jobs at a time, each worker sharing backbones among its own; a worker that dies fails its job.

    A run's own output is its log.txt. However this ends, the workers are stopped: a job at hand is saved.
    """
    queue, workers = Queue(jobs), [Worker(families) for _ in range(min(count, len(jobs)))]
    try:
        while True:
            for worker in workers:
                number = queue.next() if worker.job is None else None
                if number is not None:
                    worker.begin(number, jobs[number])
                    yield Event(number)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in (each for each in busy if each.pipe in ready):
                number = worker.job
                assert number is not None
                yield queue.ended(number, worker.outcome(jobs[number]))
    finally:
        for worker in workers:
            worker.stop()


class Worker:
    """A process that does one job at a time; a new one is started for the job that follows a death."""

    def __init__(self, families: Families):
        self.families = {name: family.__name__ for name, family in families.items()}
        self.job: int | None = None
        self._start()

    def begin(self, number: int, job: Job) -> None:
        """Hand it a job."""
        if not self.process.is_alive():
            self._start()
        self.job = number
        with suppress(ConnectionError):  # it died just now: `outcome` tells
            self.pipe.send(job)

    def outcome(self, job: Job) -> Outcome:
        """What came of its job; to be called when `pipe` is ready."""
        self.job = None
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            status = self.process.exitcode
            self._start()
            return Outcome([], [f"{job.title}: its process died (exit status {status}); see {job.cfg.OUTPUT_DIR}"])

    def stop(self) -> None:
        """Let it save what it does and end."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()

    def _start(self) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, self.families))
        self.process.start()
        theirs.close()


def _serve(pipe: Connection, names: dict[str, str]) -> None:
    """A worker: jobs come in and outcomes go out until the other end closes. Ctrl-C is its parent's affair."""
    os.setsid()
    logging.getLogger("promptvision").propagate = False  # a run's log is in its folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    families = sharing(modules(names))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(do(job, families))


def modules(names: dict[str, str]) -> Families:
    """The families by the names of their modules."""
    return {name: importlib.import_module(module) for name, module in names.items()}
