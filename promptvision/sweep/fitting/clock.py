"""The time that a fit may take."""

from __future__ import annotations

import time

from promptvision.errors import counted


class Clock:
    """A limit in minutes that starts to run with the command."""

    def __init__(self, minutes: float):
        self.limit, self.started = 60 * minutes, time.monotonic()

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.limit - (time.monotonic() - self.started)


def in_words(seconds: float) -> str:
    """Return `8 seconds`, `3 minutes`, `2.5 hours`."""
    if seconds < 100:
        return counted(max(1, round(seconds)), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
