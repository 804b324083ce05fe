"""The task of a fit: images and a backbone, how images are held out, and the configs of runs on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptvision.config import config_of
from promptvision.errors import InputError, counted
from promptvision.sweep.completed import Families
from promptvision.sweep.fitting.candidates import Candidate
from promptvision.sweep.fitting.clock import in_words

FOLDS = 5
FEW, FEW_PER_CLASS = 200, 20
"""Images to choose by, in all and per class, below which a cross-validation holds each of them out once."""
SETTINGS: Mapping[str, Any] = {
    "INPUT.TRAIN": "center",
    "INPUT.TEST": "center",
    "TRAIN.CHECKPOINT_EVERY": 10,
    "OPTIM.DROP_LAST": False,
}
"""Settings of every run: images without random crops and flips, which turn some classes into others."""


@dataclass(frozen=True)
class HeldOut:
    """The way images are held out: `folds` of a cross-validation, 0 for the validation images; and the training images
    per class, `shots`, 0 for all."""

    folds: int = 0
    shots: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of runs that are tested on held-out images."""
        own = {"DATASET.FOLDS": self.folds} if self.folds else {"DATASET.VALIDATION": "all"}
        return {**own, **self.size, "TEST.SPLIT": "val"}

    @property
    def size(self) -> dict[str, Any]:
        """Return how many images a run takes; the features of all are computed at once if it takes all."""
        return {"DATASET.SHOTS": self.shots, "TRAIN.CACHE": "auto" if self.shots else "images"}

    def seeds(self, seed: int) -> list[int]:
        """Return the seeds of the runs: one for each fold."""
        return [self.folds * (seed - 1) + number for number in range(1, self.folds + 1)] or [seed]


@dataclass(frozen=True)
class Task:
    """The images and the backbone of a fit (`settings`), the folder of its runs, and how they are computed."""

    settings: Mapping[str, Any]
    output: Path
    families: Families
    seed: int = 1
    jobs: int = 1
    held_out: HeldOut = field(default_factory=HeldOut)

    def config(self, *parts: Mapping[str, Any]) -> CfgNode:
        """Return the config of a run with these settings, the later ones on top."""
        merged: dict[str, Any] = {**SETTINGS, **self.settings}
        for part in parts:
            merged |= part
        return config_of([], [word for pair in merged.items() for word in pair], self.families)

    def runs(self, candidate: Candidate, variant: Mapping[str, Any], shots: int = 0) -> list[CfgNode]:
        """Return the configs of a candidate's runs on held-out images; `shots` of each class train, 0: as all do."""
        folder = self.output / candidate.folder(variant)
        fewer = {"DATASET.SHOTS": shots} if shots else {}
        return [
            self.config(
                candidate.settings,
                variant,
                self.held_out.settings,
                fewer,
                {"SEED": seed, "OUTPUT_DIR": str(folder / (f"{shots}_shots" if shots else "") / f"seed{seed}")},
            )
            for seed in self.held_out.seeds(self.seed)
        ]

    def final(self, candidate: Candidate, variant: Mapping[str, Any]) -> CfgNode:
        """Return the config of the run that learns from all images but those of the test."""
        own = {"DATASET.TRAIN": "train+val", "DATASET.VALIDATION": "own" if not self.held_out.shots else "all"}
        place = {"SEED": self.seed, "OUTPUT_DIR": str(self.output / "best")}
        return self.config(candidate.settings, variant, self.held_out.size, own, {"TEST.SPLIT": "test"}, place)


def hold_out(counts: Sequence[int], val: int, test: int, each: float, seconds: float) -> HeldOut:
    """Return how images are held out, so that all images of the fit can be encoded in `seconds`.

    `counts`: training and validation images of each class; `val`, `test`: validation and test images; `each`: seconds
    to encode one.
    """
    images, spread = sum(counts), sum(count for count in counts if count > 1)
    if not spread:
        raise InputError(
            "no image can be held out to choose by: beside those of the test each class has one; give each class at "
            "least three images"
        )
    if each * (images + test) <= seconds:
        few = images < FEW or images < FEW_PER_CLASS * len(counts)
        return HeldOut(min(FOLDS, spread)) if few or not val else HeldOut()
    shots = math.floor((seconds / each - val - test) / len(counts)) if val else 0
    if shots < 1:
        needed = math.ceil(4 * each * (images + test) / 60)
        raise InputError(
            f"the time is too short: the backbone takes about {in_words(each * (images + test))} to encode "
            f"{counted(images + test, 'image')} here; give --minutes {needed}, fewer images or a smaller backbone"
        )
    return HeldOut(0, shots)
