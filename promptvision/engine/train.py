"""The training loop, one for every method."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.optim import Optimizer

from promptvision.engine.best_epoch import Patience
from promptvision.engine.capture.graph import choose_step
from promptvision.engine.distributed import agreed, start_alike
from promptvision.engine.interrupt import signals
from promptvision.engine.loop import Loader, Loop, Schedule, Validation, Watch
from promptvision.engine.losses import EPOCHS, EarlyLoss, Losses
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.progress import Meter
from promptvision.engine.resume import Saver
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.step import Step
from promptvision.engine.together.stack import Member, StackedStep
from promptvision.errors import InputError, counted
from promptvision.method import Method

LOG = logging.getLogger(__name__)


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

    `per_step`, `stages` and `alike` are those of a `Schedule`.
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
    schedule = Schedule(rates, math.ceil(len(loader) / accumulate), per_step, stages, alike)
    size, epochs = schedule.size, schedule.epochs
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
    validation = Validation(validate, validate_every, watch)
    work = f"{counted(schedule.steps, 'step')} in {counted(epochs, 'epoch')}"
    LOG.info("Started: %s, on %s in %s", work, device, precision)
    clock, start = member.clock if member else time.monotonic, saver.at
    done = start.epoch * size + start.batch
    meter = Meter("Training", schedule.steps, "step", done=done, shown=progress, stays=True)
    losses = Losses(saver, meter)
    saver.settle = losses.settle
    with signals() as stop, meter, ExitStack() as ending:
        if not member:  # the backbone of a stack is pinned for the runs that go on
            ending.callback(method.pin, False)
        order = schedule, validation, seed, accumulate, checkpoint_every
        loop = Loop(ordinary, update, *order, saver, losses, member, stop, clock, clock() - start.seconds)
        for epoch in range(start.epoch, epochs):
            if any(agreed([int(saver.patience.exhausted)], device)):
                LOG.info("Stopped early: no better validation accuracy for %s", counted(patience, "epoch"))
                break
            if epoch == start.epoch or not method.training:
                method.train()
            _pin(method, update, member)
            loop.epoch(epoch, loader)
            if early and epoch < EPOCHS and not saver.diverged:
                saver.diverged = early.sentence(read_rows(folder.metrics))
            loop.end_epoch(epoch)
    return _trained(schedule, saver)


def _trained(schedule: Schedule, saver: Saver) -> dict[str, Any]:
    """Log and return what was trained."""
    steps, epochs = min(schedule.steps, saver.at.epoch * schedule.size), saver.at.epoch
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
