"""Stopping a run and going on from where it stopped: what last.ckpt holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.log import RunFolder
from promptvision.errors import Diverged, InputError
from promptvision.method import Method

LOG = logging.getLogger(__name__)


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
    """Writes and reads last.ckpt of a run: learned tensors, optimiser, gradient scale, position, and whose it is."""

    folder: RunFolder
    method: Method
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batches: int
    identity: Mapping[str, Any]

    def save(self, at: Position) -> None:
        """Write last.ckpt; learned tensors that are not finite raise InputError instead."""
        learned = self.method.learned_state()
        for name, tensor in learned.items():
            if not tensor.isfinite().all():
                raise self.not_finite(f"learned tensor {name!r} became NaN or infinite", at)
        state = {"learned": learned, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        save_checkpoint(self.folder.checkpoint, {**state, "position": tuple(at), "identity": _plain(self.identity)})

    def restore(self) -> Position:
        """Set everything to what last.ckpt holds and drop the metrics of later steps; else begin at the beginning."""
        if not self.folder.resume:
            self.folder.checkpoint.unlink(missing_ok=True)
        at = self._load() if self.folder.checkpoint.exists() else Position()
        self.folder.forget_from(at.epoch * self.batches + at.batch)
        return at

    def stop_if(self, signals: Sequence[int], at: Position) -> None:
        """After a signal: save, say how to go on, and exit with 128 + its number."""
        if signals:
            self.save(at)
            LOG.warning("stopped in epoch %d after batch %d; go on with --resume auto", at.epoch, at.batch)
            raise SystemExit(128 + signals[0])

    def not_finite(self, what: str, at: Position) -> Diverged:
        """The error that names the step, the rate and the checkpoint that is left."""
        step, rate = at.epoch * self.batches + at.batch, self.optimizer.param_groups[0]["lr"]
        there = self.folder.checkpoint.exists()
        left = f"{self.folder.checkpoint} holds the last good state" if there else "there is no checkpoint yet"
        return Diverged(
            f"{what} at step {step} (epoch {at.epoch}, learning rate {rate:g}), so training stopped; {left}; "
            "try a smaller OPTIM.LR"
        )

    def _load(self) -> Position:
        path = self.folder.checkpoint
        state = load_checkpoint(path)
        try:
            check_identity(state["identity"], self.identity)
            self.method.load_learned_state(state["learned"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            at = self._position(*state["position"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path} does not fit this run: {error}") from error
        LOG.info("going on from %s: epoch %d, batch %d", path, at.epoch, at.batch)
        return at

    def _position(self, epoch: int, batch: int, seconds: float, loss: float | None) -> Position:
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 and 0 <= batch <= self.batches):
            raise ValueError(f"there is no batch {batch} in epoch {epoch}")
        return Position(epoch, batch, float(seconds), loss)


def check_identity(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse to go on with what another config or other pictures made; names the first difference."""
    was, now = dict(_leaves(theirs)), dict(_leaves(_plain(ours)))
    for key in [*now, *was]:
        if was.get(key) != now.get(key):
            values = f"its {key} is {short(was.get(key))}, here it is {short(now.get(key))}"
            raise InputError(f"{values}; take another OUTPUT_DIR, or start anew")


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it looks after a round trip through a file: tuples as lists."""
    return json.loads(json.dumps(identity))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("OUTER.INNER", value) of nested dicts."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
