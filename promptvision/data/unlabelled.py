"""Training batches that bring unlabelled images of a target with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Protocol

from torch import Tensor


class Loader(Protocol):
    """What `TrainLoader` and its like on features offer."""

    source: str

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of an epoch, from batch `start` on."""


class WithUnlabelled:
    """(images, labels, target images): the batches of `labelled`, each with the next one of `target`.

    An epoch is one of `labelled` (Dassl, TRAIN.COUNT_ITER train_x). The target's own epochs follow one another
    without a break: step n of the run, counted from 0, brings batch n modulo their length of its epoch n divided by
    their length; so where a run is resumed changes nothing.
    """

    def __init__(self, labelled: Loader, target: Loader):
        self.labelled, self.target = labelled, target

    @property
    def source(self) -> str:
        """Where the labelled images come from."""
        return self.labelled.source

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.labelled)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of an epoch from number `start` on."""
        unlabelled = self._from(epoch * len(self) + start)
        for images, labels in self.labelled.epoch(epoch, start):
            yield images, labels, next(unlabelled)

    def _from(self, step: int) -> Iterator[Tensor]:
        first, batch = divmod(step, len(self.target))
        for number in count(first):
            for images, _ in self.target.epoch(number, batch if number == first else 0):
                yield images


def target_epochs(epochs: Iterable[int], batches: int, target_batches: int) -> list[int]:
    """The epochs of a target of `target_batches` that these epochs of `batches` steps bring."""
    steps = ((epoch * batches, (epoch + 1) * batches - 1) for epoch in epochs)
    found = (range(first // target_batches, last // target_batches + 1) for first, last in steps)
    return sorted({number for numbers in found for number in numbers})
