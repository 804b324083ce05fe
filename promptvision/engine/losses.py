"""The losses of a run's steps on their way to metrics.jsonl."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from promptvision.engine.progress import Meter
from promptvision.engine.resume import Position, Saver
from promptvision.engine.step import Later


class Taken(NamedTuple):
    """A step that was taken, and what is shown of it: `pause` is how old the last line of the log may be."""

    at: Position
    step: int
    rate: float
    pause: float
    loss: float | Later


@dataclass
class Losses:
    """Rows of the steps taken, in order; a loss that is `Later` is read when the next step is on its way.

    Call `settle` before a look at the state of the run.
    """

    saver: Saver
    meter: Meter
    pending: deque[Taken] = field(default_factory=deque)

    def note(self, taken: Taken) -> None:
        """Take account of the next step."""
        self.pending.append(taken)
        self.settle(left=1 if isinstance(taken.loss, Later) else 0)

    def settle(self, left: int = 0) -> None:
        """Write the rows of all steps except the last `left`; a loss that is not finite raises Diverged."""
        while len(self.pending) > left:
            (epoch, batch, seconds, _), step, rate, pause, loss = self.pending.popleft()
            value = float(loss)
            if not math.isfinite(value):
                self.pending.clear()
                raise self.saver.not_finite(f"the loss is {value}", Position(epoch, batch), rate)
            self.saver.folder.row(step=step, epoch=epoch, loss=value, lr=rate, seconds=seconds)
            title, details = f"Epoch {epoch + 1}/{self.saver.epochs}, loss {value:.4f}", f", learning rate {rate:.4g}"
            self.meter.update(step + 1, title, details, pause=pause)
            self.saver.at = self.saver.at._replace(loss=value)
