"""The epoch with the best validation accuracy: its learned tensors, and training that ends when it is long ago."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptvision.atomic import refuse_damaged
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.method import Method


@dataclass
class Best:
    """best.safetensors of a run: the first epoch with the highest validation accuracy (VPT `Trainer`: strictly better).

    A resumed run gets the same accuracies again and keeps the same epoch.
    """

    folder: RunFolder
    method: Method

    def note(self, epoch: int, validation: Mapping[str, Any]) -> None:
        """Keep the learned tensors of this epoch if its accuracy is the highest so far."""
        accuracy = float(validation["accuracy"])
        before = kept(self.folder.best)
        if before is None or accuracy > before["accuracy"]:
            facts = {"epoch": epoch, "accuracy": accuracy}
            metadata = {"classes": self.method.classes, "kept": json.dumps(facts)}
            save_learned(self.folder.best, self.method.learned_state(), metadata)

    def restore(self) -> dict[str, Any]:
        """Set the method to the kept tensors and return their epoch (from 0) and accuracy (per cent)."""
        found = kept(self.folder.best)
        if found is None:
            raise InputError(f"{self.folder.best} is missing, though the run kept its best epoch there; train it again")
        self.method.load_learned_state(load_learned(self.folder.best)[0])
        return {"best_epoch": found["epoch"], "best_val_accuracy": found["accuracy"]}


@dataclass
class Patience:
    """Early stopping: training ends `limit` epochs after the first with the highest validation accuracy; 0 for never.

    last.ckpt stores the rest, so that a resumed run ends at the same epoch.
    """

    limit: int = 0
    accuracy: float = -1.0
    best: int = 0
    """Epoch, from 0, of that accuracy."""
    last: int = 0
    """Epoch of the last validation."""

    def note(self, epoch: int, validation: Mapping[str, Any]) -> None:
        """Take account of the scores of an epoch."""
        self.last = epoch
        if validation["accuracy"] > self.accuracy:
            self.accuracy, self.best = float(validation["accuracy"]), epoch

    @property
    def exhausted(self) -> bool:
        """True if training ends with the last epoch that was validated."""
        return 0 < self.limit <= self.last - self.best

    def state(self) -> dict[str, Any]:
        """Return what last.ckpt stores."""
        return {"accuracy": self.accuracy, "best": self.best, "last": self.last}

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a `state()`; a checkpoint of an earlier version has none."""
        if state:
            self.accuracy, self.best, self.last = float(state["accuracy"]), int(state["best"]), int(state["last"])


def kept(path: Path) -> dict[str, Any] | None:
    """Return `epoch` (from 0) and `accuracy` (per cent) of a best.safetensors, None if there is none."""
    if not path.exists():
        return None
    metadata = load_learned(path)[1]
    with refuse_damaged(f"{path} does not say which epoch it holds", "train the run again"):
        found = json.loads(metadata["kept"])
        return {"epoch": int(found["epoch"]), "accuracy": float(found["accuracy"])}


def check_kept(path: Path, then: Mapping[str, Any] | None) -> None:
    """Raise InputError if the best epoch that a checkpoint knows of is no longer kept."""
    now = kept(path)
    if then and (now is None or now["accuracy"] < then["accuracy"]):
        state = "is missing" if now is None else f"holds {now['accuracy']:g} %"
        raise InputError(f"{path} {state}, but an epoch with {then['accuracy']:g} % was kept; train the run again")
