"""The losses of a run's steps: on their way to metrics.jsonl, and whether they rise early."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from promptvision.engine.progress import Meter
from promptvision.engine.resume import Position, Saver
from promptvision.engine.step import Later

LOG = logging.getLogger(__name__)
EPOCHS = 3
"""Epochs from the first on in which the loss is watched."""
IMAGES = 32
"""Images whose mean loss is the start: a single small batch may happen to be an easy one."""
RISE = 2.0
"""Factor of the start that a loss must exceed."""


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


@dataclass(frozen=True)
class EarlyLoss:
    """The watch on the losses of a run of `classes`, with `images` per step, at `rate` (OPTIM.LR).

    Training diverges if the mean loss of one of the first EPOCHS epochs is above RISE times its start, the mean of the
    first steps up to IMAGES images, and above log(classes), the cross-entropy of a guess: below that, a small loss may
    double by chance.
    """

    images: int
    classes: int
    rate: float

    def sentence(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Return what to say of the rows of metrics.jsonl, "" if training does not diverge; warn of it in the log."""
        taken = ((row["epoch"], row["loss"]) for row in rows if "loss" in row and row["epoch"] < EPOCHS)
        losses = [[loss for _, loss in group] for _, group in groupby(taken, key=lambda each: each[0])]
        start = fmean(losses[0][: math.ceil(IMAGES / self.images)])
        for epoch, mean in enumerate(map(fmean, losses), 1):
            if mean > max(RISE * start, math.log(self.classes)):
                said = (
                    f"Training may diverge: the mean loss of epoch {epoch} is {mean:.4g}, more than twice its start, "
                    f"{start:.4g}; try a smaller rate, such as OPTIM.LR {self.rate / 10:g}"
                )
                LOG.warning("%s", said)
                return said
        return ""
