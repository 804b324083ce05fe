"""The training loop, one for every method."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.best_epoch import Patience
from promptvision.engine.capture.graph import choose_step
from promptvision.engine.device import autocast
from promptvision.engine.distributed import agreed, start_alike
from promptvision.engine.evaluate import check_labels
from promptvision.engine.interrupt import Pruned, Stopped, signals
from promptvision.engine.losses import EPOCHS, EarlyLoss, Losses, Taken
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import set_rate
from promptvision.engine.progress import EVERY, SOON, Meter
from promptvision.engine.resume import Position, Saver
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.step import Step, seed_all
from promptvision.engine.together.stack import Member, StackedStep
from promptvision.errors import InputError, counted
from promptvision.method import Method

LOG = logging.getLogger(__name__)
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


def fit(
    method: Method,
    loader: Loader | None,
    optimizer: Optimizer | None,
    rates: Sequence[float],
    folder: RunFolder,
    *,
    seed: int,
    device: torch.device,
    precision: str = "fp32",
    clip: float = 0.0,
    accumulate: int = 1,
    checkpoint_every: int = 1,
    checkpoint_seconds: float = 0.0,
    validate: Callable[[int], Mapping[str, Any]] | None = None,
    validate_every: int = 0,
    patience: int = 0,
    watch: Watch | None = None,
    identity: Mapping[str, Any] | None = None,
    per_step: bool = False,
    stages: Sequence[int] = (0,),
    alike: int = 0,
    progress: bool = True,
    graph: str = "off",
    member: Member | None = None,
    early: EarlyLoss | None = None,
) -> dict[str, Any]:
    """Train the learned tensors, one epoch per entry of `rates`; a folder opened to resume continues from last.ckpt.

    `per_step`: one step per entry of `rates`, so that the last epoch may end early. `stages`: the first step of each of
    the method's stages. `alike`: so many of the first `rates` are those of every tensor, whatever its factor
    (`Method.rate_factors`).
    Returns `steps`, `epochs`, `seconds` (over all parts of a resumed run) and the last `loss`. A method that learns
    nothing (`optimizer` None) is left as it is. The random draws of a step depend only on (seed, step): a run that was
    stopped or killed and resumed ends bit-identical, on the same machine, to one that never stopped. Checkpoints are
    written every `checkpoint_every` epochs, and within one whenever the last is `checkpoint_seconds` old (0: never).
    `identity` (plain values) is what a checkpoint must agree with to be resumed. `clip`: the largest norm of all
    gradients together, 0 for any. `accumulate`: batches per step, whose gradients are those of one large batch.
    `validate(epoch)` returns scores for metrics.jsonl; training ends early, as after its last epoch, once the best
    accuracy among them is `patience` epochs old (0: never).
    Ctrl-C and SIGTERM save a checkpoint after the current step, or batch of a validation, and exit with 130 and 143;
    bad input, such as a missing image, saves one before it is raised. If `watch` prunes the run before its last epoch,
    it is saved and Pruned raised. A loss that is not finite raises Diverged and keeps the last good checkpoint.
    `graph`: COMPUTE.GRAPH, auto or off. `member`: the run's place in a stack, whose runs compute their steps together;
    then `seconds` are its share. `early`: the watch on the first losses, whose sentence is returned as `diverged`.
    """
    if optimizer is None or loader is None:
        LOG.info("%s learns nothing step by step: no training", type(method).__name__)
        return {"steps": 0, "epochs": 0, "seconds": 0.0, "loss": None}
    if len(method.classes) == 1:
        raise InputError(f"there is only one class, {method.classes[0]!r}: training needs at least two")
    size = math.ceil(len(loader) / accumulate)
    steps = len(rates) if per_step else len(rates) * size
    epochs = math.ceil(steps / size)
    ours = {"seed": seed, "precision": precision, "batches per epoch": size, "learning rates": list(rates)}
    method.to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    settings = method, optimizer, scaler, device, precision, clip
    ordinary = StackedStep(*settings, member) if member else Step(*settings)
    for parameter in ordinary.learned:
        parameter.data = parameter.data.float()  # whatever the backbone is: small updates vanish in 16 bits
    start_alike(ordinary.learned)
    identity = {**(identity or {}), **ours}
    saver = Saver(folder, method, optimizer, scaler, epochs, size, identity, checkpoint_seconds, Patience(patience))
    saver.restore()
    update = choose_step(ordinary, "off" if member else graph, accumulate)
    work = f"{counted(steps, 'step')} in {counted(epochs, 'epoch')}"
    LOG.info("Started: %s, on %s in %s", work, device, precision)
    clock = member.clock if member else time.monotonic
    started, start = clock() - saver.at.seconds, saver.at
    meter = Meter("Training", steps, "step", done=start.epoch * size + start.batch, shown=progress, stays=True)
    losses = Losses(saver, meter)
    saver.settle = losses.settle
    with signals() as stop, meter, ExitStack() as ending:
        if not member:  # the backbone of a stack is pinned for the runs that go on
            ending.callback(method.pin, False)
        for epoch in range(start.epoch, epochs):
            if any(agreed([int(saver.patience.exhausted)], device)):
                LOG.info("Stopped early: no better validation accuracy for %s", counted(patience, "epoch"))
                break
            if epoch == start.epoch or not method.training:
                method.train()
            _pin(method, update, member)
            first, last = saver.at.batch, min(size, steps - epoch * size)
            batches = islice(loader.epoch(epoch, first * accumulate), (last - first) * accumulate)
            for batch, group in enumerate(saver.groups_of(batches, accumulate), start=first):
                step = epoch * size + batch
                place = step if per_step else epoch
                rate = rates[place]
                for tensors in group:
                    check_labels(tensors[1], len(method.classes))
                set_rate(optimizer, rate, alike=place < alike)
                if step in stages:
                    with autocast(device, precision):
                        method.start_stage(stages.index(step))
                    update.renew()
                if not member:  # a step of a stack draws nothing (Method.stackable)
                    seed_all(seed, step)
                loss = update.take(group)
                seconds = round(clock() - started, 3)
                pause = EVERY if batch + 1 < last else SOON if FEW < epochs > epoch + 1 else 0.0
                losses.note(Taken(Position(epoch, batch, seconds), step, rate, pause, loss))
                if batch + 1 == last:  # before anything is saved: a run resumed from here must not do it again
                    losses.settle()
                    method.end_epoch(epoch, epochs)
                saver.reach(Position(epoch, batch + 1, seconds, saver.at.loss), agreed(stop, device))
            if early and epoch < EPOCHS and not saver.diverged:
                saver.diverged = early.sentence(read_rows(folder.metrics))
            prune = False
            if validate and validate_every and (epoch + 1) % validate_every == 0:
                found = _scores(validate, epoch, saver, lambda: agreed(stop, device))
                if patience:
                    saver.patience.note(epoch, found)
                folder.row(step=epoch * size + last - 1, epoch=epoch, val=found)
                prune = watch is not None and watch(epoch, found) and epoch + 1 < epochs
            at = Position(epoch + 1, 0, round(clock() - started, 3), saver.at.loss)
            ends = prune or saver.patience.exhausted or at.epoch == epochs
            saver.reach(at, agreed(stop, device), due=ends or at.epoch % checkpoint_every == 0)
            if prune:
                raise Pruned(at.epoch)
    steps, epochs = min(steps, saver.at.epoch * size), saver.at.epoch
    work = f"{counted(steps, 'step')} in {counted(epochs, 'epoch')}"
    LOG.info("Finished: %s, %.1f seconds of training", work, saver.at.seconds)
    diverged = {"diverged": saver.diverged} if saver.diverged else {}
    return {"steps": steps, "epochs": epochs, "seconds": saver.at.seconds, "loss": saver.at.loss, **diverged}


def _pin(method: Method, update: Step, member: Member | None) -> None:
    """Let the method keep what its backbone computes of frozen weights, once for the runs of a stack."""
    if member:  # runs of a stack leave their backbone as it is, which most often is one
        member.shared(f"pinned {id(method.backbone)}", method.pin)
    elif method.pin():
        update.renew()


def _scores(
    validate: Callable[[int], Mapping[str, Any]], epoch: int, saver: Saver, signals: Callable[[], Sequence[int]]
) -> dict[str, float]:
    """Validate and return the scores that are numbers; bad input and signals save the run before they end it."""
    try:
        with saver.keeping():
            scores = validate(epoch)
    except Stopped:  # the resumed run validates again
        saver.reach(saver.at, signals())
        raise
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}
