"""last.ckpt: stopping a run and resuming it where it stopped."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from reprlib import repr as short
from typing import Any, NamedTuple, TypeVar

import torch
from torch.optim import Optimizer

from promptvision.engine.best_epoch import Patience, check_kept, kept
from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.earlier_run import as_made, flat
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import Diverged, InputError, lacks_memory
from promptvision.method import Method

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Position(NamedTuple):
    """The next step of a run, with the seconds of training before it and the loss of the step before it."""

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    loss: float | None = None


def first_epoch(folder: RunFolder) -> int:
    """Return the epoch in which `fit` will start in this folder, if the checkpoint fits the run."""
    if folder.resume and folder.checkpoint.exists():
        return load_checkpoint(folder.checkpoint)["position"][0]
    return 0


@dataclass
class Saver:
    """The writer and reader of a run's last.ckpt: learned tensors, other state of training, optimiser, gradient scale,
    position, accuracy of the best epoch so far, early stopping, and the identity of the run.

    No more is needed: the learning rate is a function of the epoch, random draws of (seed, step), the order and the
    views of the images of (seed, epoch). `every`: seconds between checkpoints within an epoch, 0 for none.
    """

    folder: RunFolder
    method: Method
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    epochs: int
    batches: int
    identity: Mapping[str, Any]
    every: float = 0.0
    patience: Patience = field(default_factory=Patience)
    at: Position = Position()
    saved: float = 0.0
    diverged: str = ""
    """The sentence on losses that rise early, if they do."""
    settle: Callable[[], None] = lambda: None
    """Reads the losses that are still on the device, called before anything is saved."""

    def save(self) -> None:
        """Write last.ckpt; learned tensors or losses that are not finite raise Diverged instead."""
        self.settle()
        learned, rate = self.method.learned_state(), self.optimizer.param_groups[0]["lr"]
        for name, tensor in learned.items():
            if not tensor.isfinite().all():
                raise self.not_finite(f"learned tensor {name!r} became NaN or infinite", self.at, rate)
        self.folder.sync()
        state: dict[str, Any] = {"learned": learned, "training": self.method.training_state()}
        state |= {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        identity = json.loads(json.dumps(self.identity))  # tuples as lists, which `check_identity` compares
        state |= {"position": tuple(self.at), "best": kept(self.folder.best), "identity": identity}
        state |= {"patience": self.patience.state(), "diverged": self.diverged}
        save_checkpoint(self.folder.checkpoint, state)
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Resume from last.ckpt, if the folder is opened to resume and has one; drop the metrics of later steps."""
        path = self.folder.checkpoint
        if not self.folder.resume:
            path.unlink(missing_ok=True)
        if path.exists():
            state = load_checkpoint(path)
            try:
                self._load(state)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
                if lacks_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
                raise InputError(f"{path} does not fit this run: {reason}") from error
            LOG.info("Resumed from %s at epoch %d, batch %d", path, self.at.epoch, self.at.batch)
            self.folder.replace_config()
        self.folder.forget_from(self.at.epoch * self.batches + self.at.batch, self.at.epoch)
        self.saved = time.monotonic()

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take over the contents of a checkpoint; a wrong one raises one of many errors."""
        check_identity(state["identity"], self.identity)
        epoch, batch, seconds, loss = state["position"]
        self.at = Position(int(epoch), int(batch), float(seconds), loss)
        if not 0 <= self.at.epoch * self.batches + self.at.batch <= self.epochs * self.batches:
            raise ValueError(f"it has no batch {batch} in epoch {epoch}")
        check_kept(self.folder.best, state["best"])
        self.patience.resume(state.get("patience"))
        self.diverged = str(state.get("diverged", ""))
        self.method.load_learned_state(state["learned"])
        self.method.load_training_state(state["training"])
        self.scaler.load_state_dict(state["scaler"])
        settings = [dict(group) for group in self.optimizer.param_groups]  # stay those of the config
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        trial = copy.deepcopy(self.optimizer)  # a step on a copy fails where the state does not fit the tensors
        for parameter in (p for group in trial.param_groups for p in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        trial.step()

    def reach(self, at: Position, signals: Sequence[int], *, due: bool = False) -> None:
        """Note that a step is done, and save if that is `due` or the last checkpoint is old.

        After a signal: save, log how to resume, and exit with 128 + its number.
        """
        self.at = at
        if signals:
            self.save()
            LOG.warning("Stopped in epoch %d after batch %d; resume with --resume auto", at.epoch, at.batch)
            raise SystemExit(128 + signals[0])
        if due or (self.every and time.monotonic() - self.saved >= self.every):
            self.save()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Save what is learned so far before an InputError ends the run; only for use between two steps."""
        try:
            yield
        except InputError:
            self.save()
            raise

    def groups_of(self, batches: Iterable[T], size: int) -> Iterator[list[T]]:
        """Yield a loader's batches, `size` for each step; an image that cannot be read costs no step before it."""
        with self.keeping():
            rest = iter(batches)
            while group := list(islice(rest, size)):
                yield group

    def not_finite(self, what: str, at: Position, rate: float) -> Diverged:
        """Return the error that names the step, its rate and the checkpoint that is left."""
        step = at.epoch * self.batches + at.batch
        path = self.folder.checkpoint
        left = f"{path} holds the last good state" if path.exists() else "there is no checkpoint yet"
        return Diverged(
            f"{what} at step {step} (epoch {at.epoch}, learning rate {rate:g}), so training stopped; {left}; "
            "try a smaller OPTIM.LR"
        )


def check_identity(theirs: Any, ours: Mapping[str, Any]) -> None:
    """Raise InputError that names the first difference if another config or other images made a checkpoint."""
    parallel = "METHOD.OPTIONS.PARALLEL"  # from ours: a checkpoint may have no end
    made = as_made({parallel: dict(flat(ours)).get(parallel)})
    difference = _difference(theirs, json.loads(json.dumps(ours)), made)
    if difference:
        name, was, now = difference
        values = f"its {name} is {short(was)}, here it is {short(now)}"
        raise InputError(f"{values}; choose another OUTPUT_DIR, or replace that run with --overwrite")


def _difference(theirs: Any, ours: Any, made: Mapping[str, Any], name: str = "") -> tuple[str, Any, Any] | None:
    """Return ("OUTER.INNER", theirs, ours) of the first difference, None if there is none; go no deeper than ours.

    `made`: what theirs may lack, by full names.
    """
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        return None if type(theirs) is type(ours) and theirs == ours else (name or "identity", theirs, ours)
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        full = f"{name}.{key}" if name else str(key)
        found = _difference(theirs.get(key, made.get(full)), ours.get(key), made, full)
        if found:
            return found
    return None
