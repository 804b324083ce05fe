"""Keeping the learned tensors of the epoch that validates best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.method import Method


@dataclass
class Best:
    """best.safetensors of a run: the first epoch of the highest validation accuracy (VPT `Trainer`: strictly better).

    A resumed run meets the same accuracies again and keeps the same epoch.
    """

    folder: RunFolder
    method: Method

    def note(self, epoch: int, validation: Mapping[str, Any]) -> None:
        """Keep this epoch's learned tensors if none before had its accuracy."""
        accuracy = float(validation["accuracy"])
        before = kept(self.folder.best)
        if before is None or accuracy > before["accuracy"]:
            facts = {"epoch": epoch, "accuracy": accuracy}
            metadata = {"classes": self.method.classes, "kept": json.dumps(facts)}
            save_learned(self.folder.best, self.method.learned_state(), metadata)

    def restore(self) -> dict[str, Any]:
        """Set the method to the kept tensors; which epoch (from 0) and accuracy (per cent) they are of."""
        found = kept(self.folder.best)
        if found is None:
            raise InputError(f"{self.folder.best} is gone, though the run kept its best epoch there; start it anew")
        self.method.load_learned_state(load_learned(self.folder.best)[0])
        return {"best_epoch": found["epoch"], "best_val_accuracy": found["accuracy"]}


def kept(path: Path) -> dict[str, Any] | None:
    """`epoch` (from 0) and `accuracy` (per cent) of a best.safetensors; None where there is none."""
    if not path.exists():
        return None
    metadata = load_learned(path)[1]
    try:
        found = json.loads(metadata["kept"])
        return {"epoch": int(found["epoch"]), "accuracy": float(found["accuracy"])}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} does not tell which epoch it holds; start the run anew") from error


def check_kept(path: Path, then: Mapping[str, Any] | None) -> None:
    """Refuse to go on where the best epoch so far, of which a checkpoint knows, is no longer kept."""
    now = kept(path)
    if then and (now is None or now["accuracy"] < then["accuracy"]):
        state = "is gone" if now is None else f"holds {now['accuracy']:g} %"
        raise InputError(f"{path} {state}, but an epoch with {then['accuracy']:g} % was kept; start the run anew")
