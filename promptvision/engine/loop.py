"""The steps of a run: their rates, epoch after epoch, each with its validation and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.device import autocast
from promptvision.engine.distributed import agreed
from promptvision.engine.evaluate import check_labels
from promptvision.engine.interrupt import Pruned, Stopped
from promptvision.engine.losses import Losses, Taken
from promptvision.engine.optim import set_rate
from promptvision.engine.progress import EVERY, SOON
from promptvision.engine.resume import Position, Saver
from promptvision.engine.step import Batch, Later, Step, seed_all
from promptvision.engine.together.stack import Member

Watch = Callable[[int, Mapping[str, float]], bool]
"""Called with the epoch (from 0) and the scores of every validation; returns whether to prune the run."""
FEW = 20
"""Up to so many epochs, a log without a terminal has a line for each, however short they are."""


class Loader(Protocol):
    """Batches whose order and views depend only on the epoch."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield batches (images, labels, *extra) from batch `start`; extras are passed to `Method.loss`."""


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, `size` in each epoch: one of `rates` for each epoch or, with `per_step`, for each step, so
    that the last epoch may end early.

    `stages`: the first step of each of the method's stages. `alike`: so many of the first `rates` are those of every
    tensor, whatever its factor (`Method.rate_factors`).
    """

    rates: Sequence[float]
    size: int
    per_step: bool = False
    stages: Sequence[int] = (0,)
    alike: int = 0

    @property
    def steps(self) -> int:
        """The number of steps of the whole run."""
        return len(self.rates) if self.per_step else len(self.rates) * self.size

    @property
    def epochs(self) -> int:
        """The number of epochs, the last of which may have fewer steps."""
        return math.ceil(self.steps / self.size)

    def last(self, epoch: int) -> int:
        """Return the number of steps of an epoch."""
        return min(self.size, self.steps - epoch * self.size)

    def set_rate(self, optimizer: Optimizer, step: int) -> float:
        """Give the optimiser the rate of a step, and return it."""
        place = step if self.per_step else step // self.size
        set_rate(optimizer, self.rates[place], alike=place < self.alike)
        return self.rates[place]


@dataclass(frozen=True)
class Validation:
    """A validation after every `every` epochs (0: never), whose scores `watch` sees."""

    scores: Callable[[int], Mapping[str, Any]] | None
    every: int
    watch: Watch | None

    def due(self, epoch: int) -> bool:
        """Return whether this epoch ends with a validation."""
        return bool(self.scores and self.every and (epoch + 1) % self.every == 0)


@dataclass
class Loop:
    """A run on its way: what takes a step, in which order, and what saves and shows it.

    `ordinary` is the step that `update` may have captured; `accumulate` batches make one. `stop` are the signals that
    have come; `started` is when the training of this run, all its parts together, would have begun by `clock`.
    """

    ordinary: Step
    update: Step
    schedule: Schedule
    validation: Validation
    seed: int
    accumulate: int
    checkpoint_every: int
    saver: Saver
    losses: Losses
    member: Member | None
    stop: Sequence[int]
    clock: Callable[[], float]
    started: float

    def seconds(self) -> float:
        """Return the seconds of training so far, over all parts of a resumed run."""
        return round(self.clock() - self.started, 3)

    def signals(self) -> Sequence[int]:
        """Return the signals that any of the processes has received."""
        return agreed(self.stop, self.ordinary.device)

    def epoch(self, epoch: int, loader: Loader) -> None:
        """Take the steps of an epoch that are left."""
        method, saver, first, last = self.ordinary.method, self.saver, self.saver.at.batch, self.schedule.last(epoch)
        epochs, batches = self.schedule.epochs, loader.epoch(epoch, first * self.accumulate)
        groups = saver.groups_of(islice(batches, (last - first) * self.accumulate), self.accumulate)
        for batch, group in enumerate(groups, start=first):
            step = epoch * self.schedule.size + batch
            rate, loss = self.step(step, group)
            seconds = self.seconds()
            pause = EVERY if batch + 1 < last else SOON if FEW < epochs > epoch + 1 else 0.0
            self.losses.note(Taken(Position(epoch, batch, seconds), step, rate, pause, loss))
            if batch + 1 == last:  # before anything is saved: a run resumed from here must not do it again
                self.losses.settle()
                method.end_epoch(epoch, epochs)
            saver.reach(Position(epoch, batch + 1, seconds, saver.at.loss), self.signals())

    def step(self, step: int, group: Sequence[Batch]) -> tuple[float, float | Later]:
        """Take a step on a group of batches; return its rate and its loss."""
        method = self.ordinary.method
        for tensors in group:
            check_labels(tensors[1], len(method.classes))
        rate = self.schedule.set_rate(self.ordinary.optimizer, step)
        if step in self.schedule.stages:
            with autocast(self.ordinary.device, self.ordinary.precision):
                method.start_stage(self.schedule.stages.index(step))
            self.update.renew()
        if not self.member:  # a step of a stack draws nothing (Method.stackable)
            seed_all(self.seed, step)
        return rate, self.update.take(group)

    def end_epoch(self, epoch: int) -> None:
        """Validate and save, as far as this epoch is due; raise Pruned if the run is pruned before its last epoch."""
        prune = self.validation.due(epoch) and self.validate(epoch) and epoch + 1 < self.schedule.epochs
        at = Position(epoch + 1, 0, self.seconds(), self.saver.at.loss)
        ends = prune or self.saver.patience.exhausted or at.epoch == self.schedule.epochs
        self.saver.reach(at, self.signals(), due=ends or at.epoch % self.checkpoint_every == 0)
        if prune:
            raise Pruned(at.epoch)

    def validate(self, epoch: int) -> bool:
        """Validate and write the scores that are numbers; return whether to prune the run."""
        found = {name: value for name, value in self._scores(epoch).items() if isinstance(value, int | float)}
        if self.saver.patience.limit:
            self.saver.patience.note(epoch, found)
        step = epoch * self.schedule.size + self.schedule.last(epoch) - 1
        self.saver.folder.row(step=step, epoch=epoch, val=found)
        return self.validation.watch is not None and self.validation.watch(epoch, found)

    def _scores(self, epoch: int) -> Mapping[str, Any]:
        """Return the scores of an epoch; bad input and signals save the run before they end it."""
        assert self.validation.scores is not None
        try:
            with self.saver.keeping():
                return self.validation.scores(epoch)
        except Stopped:  # the resumed run validates again
            self.saver.reach(self.saver.at, self.signals())
            raise
