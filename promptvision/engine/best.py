"""Keeping the learned tensors of the epoch that validates best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.log import RunFolder
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
        if not self.folder.best.exists() or accuracy > self._kept()["accuracy"]:
            kept = {"epoch": epoch, "accuracy": accuracy}
            metadata = {"classes": self.method.classes, "kept": json.dumps(kept)}
            save_learned(self.folder.best, self.method.learned_state(), metadata)

    def restore(self) -> dict[str, Any]:
        """Set the method to the kept tensors; which epoch (from 0) and accuracy (per cent) they are of."""
        self.method.load_learned_state(load_learned(self.folder.best)[0])
        kept = self._kept()
        return {"best_epoch": kept["epoch"], "best_val_accuracy": kept["accuracy"]}

    def _kept(self) -> dict[str, Any]:
        return json.loads(load_learned(self.folder.best)[1]["kept"])
