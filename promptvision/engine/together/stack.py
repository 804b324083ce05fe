"""Runs that train together: each keeps its own loop, folder and optimiser, and their steps are computed as one.

Every run is a thread, and only one thread works at a time. A run that needs the gradients of a step waits until all
others wait too; then those of one shape are computed on a leading axis (together/gradients.py), and the runs go on one
after the other. A run that has finished or failed leaves the others to themselves; what works for one run, such as
validation, checkpoints and resuming, works here because it is the same code.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from warnings import catch_warnings, filterwarnings

from torch import Tensor

from promptvision.engine.interrupt import signals
from promptvision.engine.step import Batch, Step
from promptvision.engine.together.gradients import Learner, Wanted, compute

S = TypeVar("S")
T = TypeVar("T")


class Member:
    """The place of run `number` in a stack."""

    def __init__(self, stack: Stack[Any], number: int):
        self.stack, self.number = stack, number
        self.turn = threading.Lock()
        """Held, until another run lets this one go on."""
        self.turn.acquire()
        self.together = 1
        """The most runs, itself included, whose steps were computed as one with its own."""
        self._seconds, self._since = 0.0, 0.0

    def start(self) -> None:
        """Start its clock."""
        self._since = time.monotonic()

    def clock(self) -> float:
        """Return the seconds of its own work so far, with its share of what was computed together."""
        return self._seconds + time.monotonic() - self._since

    def shared(self, name: str, make: Callable[[], S]) -> S:
        """Return `make()` of the first run that asked for `name`."""
        if name not in self.stack.shared:
            self.stack.shared[name] = make()
        return self.stack.shared[name]

    def wait_for(self, wanted: Wanted) -> Tensor:
        """Return the loss of a batch when its gradients are computed, together with those of other runs."""
        before = self.clock()
        self.stack.waiting.append((self, wanted))
        self.stack.pass_on()
        self.turn.acquire()
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
        self.ready = deque(Member(self, number) for number in range(len(works)))
        """Runs that can go on."""
        self.waiting: list[tuple[Member, Wanted]] = []
        self.shared: dict[str, Any] = {}
        """Facts and features that are the same for all runs, by name."""
        self.results: dict[int, T] = {}
        self.errors: list[BaseException] = []

    def run(self) -> list[T]:
        """Return what the pieces of work return, in their order; raise the first error when all have ended.

        After SIGINT or SIGTERM every run that trains saves its checkpoint, no other starts, and the process exits.
        """
        with signals() as received, catch_warnings():
            filterwarnings("ignore", "There is a performance drop")  # attention of foreign blocks under vmap
            threads = [
                threading.Thread(target=copy_context().run, args=(self._work, member, received), daemon=True)
                for member in self.ready
            ]
            for thread in threads:
                thread.start()
            self.pass_on()
            for thread in threads:
                thread.join()
        if received:
            raise SystemExit(128 + received[0])
        for error in self.errors:
            raise error
        return [self.results[number] for number in range(len(self.works))]

    def pass_on(self) -> None:
        """Let the next run go on, after what all are waiting for is computed, if none can."""
        if not self.ready and self.waiting:
            compute([wanted for _, wanted in self.waiting])
            self.ready.extend(member for member, _ in self.waiting)
            self.waiting.clear()
        if self.ready:
            self.ready.popleft().turn.release()

    def _work(self, member: Member, received: Sequence[int]) -> None:
        """Do the work of a run when it is its turn, unless a signal came first."""
        member.turn.acquire()
        try:
            if not received:
                member.start()
                self.results[member.number] = self.works[member.number](member)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that started this one
            self.errors.append(error)
        finally:
            self.pass_on()
