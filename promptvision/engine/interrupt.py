"""Ending before the end: signals that wait for a moment at which nothing is lost, and runs that are given up early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType


class Stopped(Exception):
    """SIGINT or SIGTERM came while images were evaluated, and the rest of them is left."""


class Pruned(Exception):
    """Training was given up after so many `epochs`, and saved; it can be gone on with."""

    def __init__(self, epochs: int):
        super().__init__(f"given up after {epochs} epochs")
        self.epochs = epochs


_RECEIVED: ContextVar[Sequence[int]] = ContextVar("received", default=())


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM goes into; a second exits at once. Only the main thread can listen."""
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
    """Raise Stopped if a signal waits in the `signals` around this."""
    if _RECEIVED.get():
        raise Stopped
