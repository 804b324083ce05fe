"""Training batches that also hold unlabelled images of a target domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import Any

from torch import Tensor


class WithUnlabelled:
    """Batches (images, labels, target images): those of `labelled`, each with the next one of `target`.

    Both are a `TrainLoader`, or its like on features. An epoch is one of `labelled` (Dassl, TRAIN.COUNT_ITER train_x).
    The target's own epochs follow one another without a break: with n batches in each, step s of the run, counted from
    0, takes batch s modulo n of epoch s // n. So a resumed run sees the same batches.
    """

    def __init__(self, labelled: Any, target: Any):
        self.labelled, self.target = labelled, target

    @property
    def source(self) -> str:
        """Source of the labelled batches: images, or cached features."""
        return self.labelled.source

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.labelled)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of an epoch from number `start` on."""
        first, batch = divmod(epoch * len(self) + start, len(self.target))
        later = chain.from_iterable(self.target.epoch(number) for number in count(first + 1))
        target = chain(self.target.epoch(first, batch), later)
        for images, labels in self.labelled.epoch(epoch, start):
            yield images, labels, next(target)[0]


def target_epochs(epochs: Iterable[int], batches: int, target_batches: int) -> list[int]:
    """Return the epochs of a target with `target_batches` that these epochs of `batches` steps reach."""
    steps = (step for epoch in epochs for step in range(epoch * batches, (epoch + 1) * batches))
    return sorted({step // target_batches for step in steps})
