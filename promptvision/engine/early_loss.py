"""Divergence that shows early: a loss that rises far above its start within the first epochs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

LOG = logging.getLogger(__name__)
EPOCHS = 3
"""Epochs from the first on in which the loss is watched."""
IMAGES = 32
"""Images whose mean loss is the start: a single small batch may happen to be an easy one."""
RISE = 2.0
"""Factor of the start that a loss must exceed."""


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
