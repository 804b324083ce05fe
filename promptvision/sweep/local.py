"""Doing jobs on this machine: in this process one after the other, or in worker processes, replaced when they die."""

from __future__ import annotations

import atexit
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
from promptvision.sweep.jobs import Job, Outcome, done
from promptvision.sweep.stack import do_together, groups_of

TRIES = 2
"""Number of times that a failing job is tried."""


class Event(NamedTuple):
    """A job has started (no outcome) or finished; `again`: something failed, and it will be tried again."""

    number: int
    outcome: Outcome | None = None
    again: bool = False


class Queue:
    """Jobs by number, each handed out until it succeeds or was tried TRIES times, failed ones after all others.

    `groups`: those that train together.
    """

    def __init__(self, jobs: Sequence[Job], groups: Sequence[Sequence[int]] = ()):
        self.jobs, self.waiting, self.tries = jobs, deque(range(len(jobs))), [0] * len(jobs)
        self.group = {number: group for group in groups for number in group}

    def next(self) -> int | None:
        """Return the number of the job to start, if one is waiting."""
        if not self.waiting:
            return None
        number = self.waiting.popleft()
        self.tries[number] += 1
        return number

    def next_group(self) -> list[int]:
        """Return the numbers of the jobs to start together; none if no job is waiting. One that failed is alone."""
        first = self.next()
        if first is None:
            return []
        others = self.group.get(first, ()) if self.tries[first] == 1 else ()
        together = [first, *(number for number in others if number in self.waiting and not self.tries[number])]
        for number in together[1:]:
            self.waiting.remove(number)
            self.tries[number] += 1
        return together

    def finished(self, number: int, outcome: Outcome) -> Event:
        """Record the outcome of a job, and queue it again if it failed for the first time."""
        again = bool(outcome.failures) and self.tries[number] < TRIES
        if again:
            self.waiting.append(number)
        return Event(number, outcome, again)


def do_here(
    jobs: Sequence[Job], families: Families, stack: int = 1, *, progress: bool = False
) -> Generator[Event, None, None]:
    """Do one job after the other, with backbones shared in memory; up to `stack` of them train together."""
    from promptvision.sweep.shared_backbone import sharing

    queue, shared = Queue(jobs, groups_of(jobs, families, stack)), sharing(families)
    while group := queue.next_group():
        yield from map(Event, group)
        outcomes = do_together([jobs[number] for number in group], shared, progress=progress)
        yield from map(queue.finished, group, outcomes)


def do_in_workers(jobs: Sequence[Job], families: Families, count: int, stack: int = 1) -> Generator[Event, None, None]:
    """Do jobs in `count` workers, each of which does one at a time, or up to `stack` that train together.

    A worker shares backbones among its jobs; one that dies fails those that it has not finished. The log of a run is in
    its folder. However this ends, the workers are stopped and save the jobs that they are doing.
    """
    queue = Queue(jobs, groups_of(jobs, families, stack))
    workers = [Worker(families) for _ in range(min(count, len(jobs)))]
    try:
        while True:
            for worker in workers:
                group = queue.next_group() if not worker.group else []
                if group:
                    worker.start(group, [jobs[number] for number in group])
                    yield from map(Event, group)
            busy = [worker for worker in workers if worker.group]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in (each for each in busy if each.pipe in ready):
                group = worker.group
                yield from map(queue.finished, group, worker.outcomes([jobs[number] for number in group]))
    finally:
        started = [worker for worker in workers if worker.process]
        for worker in started:  # all before the first wait: a second signal must leave none at work
            worker.stop()
        for worker in started:
            worker.wait()


class Worker:
    """A process that does one group of jobs at a time; it is launched for its first, and again after its death."""

    def __init__(self, families: Families):
        self.modules = {name: family.__name__ for name, family in families.items()}
        self.group: list[int] = []
        """Numbers of the jobs that it is doing."""
        self.process: BaseProcess | None = None
        self.stopping = False

    def start(self, group: list[int], jobs: Sequence[Job]) -> None:
        """Hand it jobs that train together, or one."""
        if not self.process or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, self.modules))
            self.process.start()
            theirs.close()
            atexit.register(self.stop)  # where a second signal ends the sweep before it has told all
        self.group = group
        with suppress(ConnectionError):  # it has just died, which `outcomes` reports
            self.pipe.send(jobs)

    def outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Return the outcomes of its jobs, when `pipe` is ready."""
        self.group = []
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            assert self.process
            self.process.join()
            died = f"its process died (exit status {self.process.exitcode}); see"
            return [done(job) or Outcome([], [f"{job.title}: {died} {job.cfg.OUTPUT_DIR}"]) for job in jobs]

    def stop(self) -> None:
        """Tell it once to save what it is doing and to end: a second signal would end it at once."""
        if self.process and not self.stopping:
            self.process.terminate()
            self.stopping = True

    def wait(self) -> None:
        """Wait for its end, and let go of it."""
        assert self.process
        self.process.join()
        self.pipe.close()
        atexit.unregister(self.stop)


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
            jobs = pipe.recv()
        except EOFError:
            return
        pipe.send(do_together(jobs, families))


def _stop_with_parent() -> None:
    """Wait for the end of the parent process, then stop this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
