"""Early ends of a run: signals that wait until nothing is lost, and pruning."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType


class Stopped(Exception):
    """The early end of an evaluation after SIGINT or SIGTERM."""


@dataclass(eq=False)
class Pruned(Exception):
    """The early end of a run that was pruned after `epochs`; it was saved and can be resumed."""

    epochs: int


_RECEIVED: ContextVar[Sequence[int]] = ContextVar("received", default=())


@contextmanager
def signals() -> Iterator[list[int]]:
    """Yield a list that receives the first SIGINT or SIGTERM; a second one exits at once.

    Only the main thread receives signals; within another `signals`, that one's list is yielded.
    """
    outer = _RECEIVED.get()
    if isinstance(outer, list):
        yield outer
        return
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise SystemExit(128 + number)
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if main}
    token = _RECEIVED.set(received)
    try:
        yield received
    finally:
        _RECEIVED.reset(token)
        for number, handler in before.items():
            signal.signal(number, handler)


def heed() -> None:
    """Raise Stopped if the enclosing `signals` has received one."""
    if _RECEIVED.get():
        raise Stopped
