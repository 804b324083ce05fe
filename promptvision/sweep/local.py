"""Doing jobs on this machine: in this process one after the other, or in worker processes, replaced when they die."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from promptvision.sweep.completed import Families
from promptvision.sweep.jobs import Job, Outcome, do

TRIES = 2
"""Number of times that a failing job is tried."""


class Event(NamedTuple):
    """A job has started (no outcome) or finished; `again`: something failed, and it will be tried again."""

    number: int
    outcome: Outcome | None = None
    again: bool = False


class Queue:
    """Jobs by number, each handed out until it succeeds or was tried TRIES times, failed ones after all others."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs, self.waiting, self.tries = jobs, deque(range(len(jobs))), [0] * len(jobs)

    def next(self) -> int | None:
        """Return the number of the job to start, if one is waiting."""
        if not self.waiting:
            return None
        number = self.waiting.popleft()
        self.tries[number] += 1
        return number

    def finished(self, number: int, outcome: Outcome) -> Event:
        """Record the outcome of a job, and queue it again if it failed for the first time."""
        again = bool(outcome.failures) and self.tries[number] < TRIES
        if again:
            self.waiting.append(number)
        return Event(number, outcome, again)


def do_here(jobs: Sequence[Job], families: Families, *, progress: bool = False) -> Generator[Event, None, None]:
    """Do one job after the other, with backbones shared in memory."""
    from promptvision.sweep.shared_backbone import sharing

    queue, shared = Queue(jobs), sharing(families)
    while (number := queue.next()) is not None:
        yield Event(number)
        yield queue.finished(number, do(jobs[number], shared, progress=progress))


def do_in_workers(jobs: Sequence[Job], families: Families, count: int) -> Generator[Event, None, None]:
    """Do `count` jobs at a time; each worker shares backbones among its own, and a worker that dies fails its job.

    The log of a run is in its folder. However this ends, the workers are stopped and save the jobs that they are doing.
    """
    queue, workers = Queue(jobs), [Worker(families) for _ in range(min(count, len(jobs)))]
    try:
        while True:
            for worker in workers:
                number = queue.next() if worker.job is None else None
                if number is not None:
                    worker.start(number, jobs[number])
                    yield Event(number)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in (each for each in busy if each.pipe in ready):
                number = worker.job
                assert number is not None
                yield queue.finished(number, worker.outcome(jobs[number]))
    finally:
        started = [(worker.process, worker.pipe) for worker in workers if worker.process]
        for process, _ in started:  # all before the first wait: a second signal here must leave none at work
            process.terminate()
        for process, pipe in started:
            process.join()
            pipe.close()


class Worker:
    """A process that does one job at a time; it is launched for its first job, and again for a job after its death."""

    def __init__(self, families: Families):
        self.modules = {name: family.__name__ for name, family in families.items()}
        self.job: int | None = None
        self.process: BaseProcess | None = None

    def start(self, number: int, job: Job) -> None:
        """Hand it a job."""
        if not self.process or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, self.modules))
            self.process.start()
            theirs.close()
        self.job = number
        with suppress(ConnectionError):  # it has just died, which `outcome` reports
            self.pipe.send(job)

    def outcome(self, job: Job) -> Outcome:
        """Return the outcome of its job, when `pipe` is ready."""
        self.job = None
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            assert self.process
            self.process.join()
            status = self.process.exitcode
            return Outcome([], [f"{job.title}: its process died (exit status {status}); see {job.cfg.OUTPUT_DIR}"])


def _serve(pipe: Connection, modules: Mapping[str, str]) -> None:
    """Do the jobs that come in, and send their outcomes, until the other end closes; Ctrl-C is left to the parent.

    If the parent dies in the middle of a job, the worker stops as if it had been terminated: it saves first.
    """
    from promptvision.sweep.shared_backbone import sharing

    if sys.platform != "win32":
        os.setsid()
    logging.getLogger("promptvision").propagate = False  # the log of a run is in its folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    families = sharing({name: importlib.import_module(module) for name, module in modules.items()})
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(do(job, families))


def _stop_with_parent() -> None:
    """Wait for the end of the parent process, then stop this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
