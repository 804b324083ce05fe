"""Runs that train together: each keeps its own loop, folder and optimiser, and their steps are computed as one.

Every run is a thread, and only one thread works at a time. A run that needs the gradients of a step waits until all
others wait too; then those of one shape are computed on a leading axis (together/gradients.py), and the runs go on one
after the other. A run that has finished or failed leaves the others to themselves; what works for one run, such as
validation, checkpoints and resuming, works here because it is the same code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from promptvision.engine.interrupt import signals
from promptvision.engine.step import Batch, Step
from promptvision.engine.together.gradients import Learner, Wanted, compute

T = TypeVar("T")


class Member:
    """The place of run `number` in a stack."""

    def __init__(self, stack: Stack[Any], number: int):
        self.stack, self.number = stack, number
        self.together = 1
        """The most runs, itself included, whose steps were computed as one with its own."""
        self._seconds, self._since = 0.0, time.monotonic()

    def clock(self) -> float:
        """Return the seconds of its own work so far, with its share of what was computed together."""
        return self._seconds + time.monotonic() - self._since

    def wait_for(self, wanted: Wanted) -> Tensor:
        """Return the loss of a batch when its gradients are computed, together with those of other runs."""
        before = self.clock()
        self.stack.wait_for(wanted)
        self._seconds, self._since = before + wanted.seconds, time.monotonic()
        self.together = max(self.together, wanted.together)
        if wanted.error:
            raise wanted.error
        return wanted.loss


@dataclass
class StackedStep(Step):
    """A step whose gradients are computed together with those of other runs."""

    member: Member

    def __post_init__(self) -> None:
        self.learner = Learner(self.method)

    def backward(self, batch: Batch, share: float) -> Tensor:
        on_device = [tensor.to(self.device) for tensor in batch]
        return self.member.wait_for(Wanted(self.member.number, self, self.learner, on_device, share))


class Stack(Generic[T]):
    """Pieces of work, each of which trains a run, done in turn; their steps are computed together."""

    def __init__(self, works: Sequence[Callable[[Member], T]]):
        self.works = works
        self.turn = threading.Condition()
        """The run that holds its lock is at work."""
        self.active = len(works)
        self.waiting: list[Wanted] = []
        self.results: dict[int, T] = {}
        self.errors: list[BaseException] = []

    def run(self) -> list[T]:
        """Return what the pieces of work return, in their order; raise the first error when all have ended.

        After SIGINT or SIGTERM every run that trains saves its checkpoint, no other starts, and the process exits.
        """
        with signals() as received:
            threads = [
                threading.Thread(target=copy_context().run, args=(self._work, number, received), daemon=True)
                for number in range(len(self.works))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if received:
            raise SystemExit(128 + received[0])
        for error in self.errors:
            raise error
        return [self.results[number] for number in range(len(self.works))]

    def wait_for(self, wanted: Wanted) -> None:
        """Wait until gradients are computed; the last run that comes to wait computes all."""
        self.waiting.append(wanted)
        self._serve()
        while not wanted.done:
            self.turn.wait()

    def _work(self, number: int, received: Sequence[int]) -> None:
        """Do one piece of work, unless a signal came first."""
        with self.turn:
            try:
                if not received:
                    self.results[number] = self.works[number](Member(self, number))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that started this one
                self.errors.append(error)
            finally:
                self.active -= 1
                self._serve()

    def _serve(self) -> None:
        """Compute the gradients if all runs that are left wait for them."""
        if self.waiting and len(self.waiting) == self.active:
            wanted, self.waiting = self.waiting, []
            compute(wanted)
            self.turn.notify_all()
