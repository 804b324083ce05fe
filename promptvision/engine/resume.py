"""Stopping a run and going on from where it stopped: what last.ckpt holds."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from promptvision.engine.best_epoch import check_kept, kept
from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import Diverged, InputError
from promptvision.method import Method

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Position(NamedTuple):
    """The step that comes next; the seconds of training before it, and the loss of the step before it."""

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    loss: float | None = None


def first_epoch(folder: RunFolder) -> int:
    """The epoch that `fit` will begin with in this folder, as far as one can tell before it checks the checkpoint."""
    if not (folder.resume and folder.checkpoint.exists()):
        return 0
    position = load_checkpoint(folder.checkpoint).get("position")
    return position[0] if isinstance(position, tuple | list) and position and isinstance(position[0], int) else 0


@dataclass
class Saver:
    """Writes and reads last.ckpt of a run: learned tensors and what else training carries, optimiser, gradient scale,
    position, the accuracy of the best epoch so far, and whose it is.

    No more is needed: the learning rate is a function of the epoch, what is drawn at random one of (seed, step), and
    the order and the views of the images ones of (seed, epoch). `every`: seconds between checkpoints within an
    epoch, 0 for none.
    """

    folder: RunFolder
    method: Method
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    epochs: int
    batches: int
    identity: Mapping[str, Any]
    every: float = 0.0
    at: Position = Position()
    saved: float = 0.0

    def save(self) -> None:
        """Write last.ckpt; learned tensors that are not finite raise InputError instead."""
        learned = self.method.learned_state()
        for name, tensor in learned.items():
            if not tensor.isfinite().all():
                raise self.not_finite(f"learned tensor {name!r} became NaN or infinite", self.at)
        self.folder.sync()
        state = {"learned": learned, "training": self.method.training_state()}
        state |= {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        known = {"position": tuple(self.at), "best": kept(self.folder.best), "identity": _plain(self.identity)}
        save_checkpoint(self.folder.checkpoint, {**state, **known})
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Set everything to what last.ckpt holds and drop the metrics of later steps; else begin at the beginning."""
        if not self.folder.resume:
            self.folder.checkpoint.unlink(missing_ok=True)
        if self.folder.checkpoint.exists():
            self._load()
            self.folder.go_on()
        self.folder.forget_from(self.at.epoch * self.batches + self.at.batch, self.at.epoch)
        self.saved = time.monotonic()

    def reach(self, at: Position, signals: Sequence[int], *, due: bool = False) -> None:
        """A step is done. After a signal: save, say how to go on, and exit with 128 + its number; else save if it is
        `due` or time."""
        self.at = at
        if signals:
            self.save()
            LOG.warning("stopped in epoch %d after batch %d; go on with --resume auto", at.epoch, at.batch)
            raise SystemExit(128 + signals[0])
        if due or (self.every and time.monotonic() - self.saved >= self.every):
            self.save()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Between two steps: bad input ends the run, but what is learned so far is saved first."""
        try:
            yield
        except InputError:
            self.save()
            raise

    def batches_of(self, epoch: Iterable[T]) -> Iterator[T]:
        """A loader's batches; an image that cannot be read costs no step before it."""
        with self.keeping():
            yield from epoch

    def not_finite(self, what: str, at: Position) -> Diverged:
        """The error that names the step, the rate and the checkpoint that is left."""
        step, rate = at.epoch * self.batches + at.batch, self.optimizer.param_groups[0]["lr"]
        there = self.folder.checkpoint.exists()
        left = f"{self.folder.checkpoint} holds the last good state" if there else "there is no checkpoint yet"
        return Diverged(
            f"{what} at step {step} (epoch {at.epoch}, learning rate {rate:g}), so training stopped; {left}; "
            "try a smaller OPTIM.LR"
        )

    def _load(self) -> None:
        path = self.folder.checkpoint
        state = load_checkpoint(path)
        try:
            check_identity(state["identity"], self.identity)
            self.at = self._position(*state["position"])
            check_kept(self.folder.best, state.get("best"))
            self.method.load_learned_state(state["learned"])
            self.method.load_training_state(state["training"])
            load_optimizer(self.optimizer, state["optimizer"])
            _check_numbers(state["scaler"])
            self.scaler.load_state_dict(state["scaler"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} does not fit this run: {reason}") from error
        LOG.info("going on from %s: epoch %d, batch %d", path, self.at.epoch, self.at.batch)

    def _position(self, epoch: int, batch: int, seconds: float, loss: float | None) -> Position:
        if not (isinstance(epoch, int) and isinstance(batch, int) and 0 <= epoch <= self.epochs):
            raise ValueError(f"there is no batch {batch} in epoch {epoch}")
        if not 0 <= batch <= (self.batches if epoch < self.epochs else 0):
            raise ValueError(f"there is no batch {batch} in epoch {epoch}")
        if not math.isfinite(seconds) or not isinstance(loss, float | None):
            raise ValueError("its position holds more than numbers")
        return Position(epoch, batch, float(seconds), loss)


def load_optimizer(optimizer: Optimizer, theirs: Mapping[str, Any]) -> None:
    """Take over what an optimiser of the same kind has kept for each tensor; its settings stay those of the config."""
    ours = optimizer.state_dict()["param_groups"]
    if len(theirs["param_groups"]) != len(ours):
        raise ValueError(f"its optimiser has {len(theirs['param_groups'])} groups of tensors, not {len(ours)}")
    tensors = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    like = _kept(optimizer)
    for number, values in theirs["state"].items():
        if values.keys() != like.keys():
            raise ValueError(f"its optimiser keeps {short(list(values))}, not {short(list(like))}")
        for name, value in values.items():
            _check_kept(name, value, like[name], tensors[number].shape)
    optimizer.load_state_dict({"state": theirs["state"], "param_groups": ours})


def _kept(optimizer: Optimizer) -> dict[str, Any]:
    """What the optimiser keeps for a tensor, as one step of its like on a tensor of shape (1,) shows."""
    number = torch.nn.Parameter(torch.zeros(1))
    number.grad = torch.zeros(1)
    like = type(optimizer)([{**optimizer.param_groups[0], "params": [number]}], lr=0.1)  # type: ignore[call-arg]
    like.step()
    return dict(like.state[number])


def _check_kept(name: str, value: Any, like: Any, shape: torch.Size) -> None:
    """Refuse what an optimiser keeps by this name for a tensor of this shape if it is unlike what its like keeps."""
    if type(value) is not type(like):
        raise ValueError(f"{name} of its optimiser is {short(value)}")
    if isinstance(value, Tensor):
        wanted = shape if like.dim() else ()
        if value.shape != wanted or value.layout != torch.strided or value.is_complex():
            raise ValueError(f"{name} of its optimiser is no tensor of shape {tuple(wanted)}")


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float | None):
            raise ValueError(f"its {name} is no number but {short(value)}")


def check_identity(theirs: Any, ours: Mapping[str, Any]) -> None:
    """Refuse to go on with what another config or other images made; names the first difference."""
    difference = _difference(theirs, _plain(ours))
    if difference:
        name, was, now = difference
        values = f"its {name} is {short(was)}, here it is {short(now)}"
        raise InputError(f"{values}; take another OUTPUT_DIR, or start anew")


def _difference(theirs: Any, ours: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """("OUTER.INNER", theirs, ours) where they first differ; goes no deeper than ours."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        return None if type(theirs) is type(ours) and theirs == ours else (name or "identity", theirs, ours)
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        found = _difference(theirs.get(key), ours.get(key), f"{name}.{key}" if name else str(key))
        if found:
            return found
    return None


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it looks after a round trip through a file: tuples as lists."""
    return json.loads(json.dumps(identity))
