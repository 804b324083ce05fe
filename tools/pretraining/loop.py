"""The training loop: steps that depend on (recipe, step) alone, saved so that a stopped run resumes bit for bit."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.recipe import Recipe, build_optimizers
from promptvision.atomic import refuse_damaged, replacing
from promptvision.data.world.scene import Scenes, pretraining, sample
from promptvision.engine.interrupt import signals
from promptvision.engine.progress import Meter
from promptvision.errors import InputError

LOG = logging.getLogger("promptvision.pretraining")
POINTS = 20
"""Points of the curve."""


class Objective(Protocol):
    """A model to train, with its loss and its quality."""

    model: nn.Module

    def loss(self, rng: np.random.Generator, scenes: Scenes) -> Tensor:
        """Return the loss of a batch of scenes."""
        ...

    def quality(self) -> dict[str, float]:
        """Return numbers for the curve, such as accuracies in percent."""
        ...

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Write the weights in half precision, with `facts` as metadata."""
        ...


class Training:
    """A pretraining of an objective: its optimizers, the next step, and the curve so far."""

    def __init__(self, objective: Objective, recipe: Recipe, state: Path | None = None) -> None:
        self.objective, self.recipe, self.state = objective, recipe, state
        self.optimizers = build_optimizers(objective.model, recipe)
        self.step, self.losses, self.curve = 0, 0.0, []
        if state and state.is_file():
            self._restore(state)

    def save(self) -> None:
        """Write the state, from which the same recipe resumes."""
        if self.state:
            content = {
                "recipe": asdict(self.recipe),
                "kind": type(self.objective).__name__,
                "model": self.objective.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "progress": (self.step, self.losses, self.curve),
            }
            with replacing(self.state) as file:
                torch.save(content, file)

    def _restore(self, path: Path) -> None:
        with refuse_damaged(f"{path} is no state of a pretraining"):
            content: dict[str, Any] = torch.load(path, weights_only=True)
            theirs = {**content["recipe"], "kind": content["kind"]}
        ours = {**asdict(self.recipe), "kind": type(self.objective).__name__}
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise InputError(f"{path} is of another pretraining: {name} {theirs.get(name)}, not {value}")
        self.objective.model.load_state_dict(content["model"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.losses, self.curve = content["progress"]
        LOG.info("Resumed from %s at step %d of %d", path, self.step, self.recipe.steps)

    def run(self, every: int = 200) -> None:
        """Train to the end, saving the state every so many steps; SIGINT and SIGTERM save it and exit."""
        recipe, batch = self.recipe, self.recipe.batch
        start, began = self.step, time.monotonic()
        total = recipe.steps * batch
        with signals() as received, Meter("Pretraining", total, "pair", done=self.step * batch) as meter:
            while self.step < recipe.steps:
                loss = self._advance()
                self._note()
                if received or self.step % every == 0:
                    self.save()
                if received:
                    self._stop(received[0])
                speed = (self.step - start) * batch / (time.monotonic() - began)
                meter.update(self.step * batch, details=f" (loss {loss:.3f}, {speed:.0f} pairs/s)")
        self.save()

    def _advance(self) -> float:
        """Take one step and return its loss."""
        recipe, objective = self.recipe, self.objective
        rng = np.random.default_rng([recipe.seed, 1, self.step])
        scenes = sample(rng, recipe.batch, pretraining(self.step / recipe.steps))
        loss = objective.loss(rng, scenes)
        loss.backward()
        nn.utils.clip_grad_norm_(objective.model.parameters(), recipe.clip)
        for optimizer, rate in zip(self.optimizers, (recipe.muon_rate, recipe.adamw_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * recipe.factor(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.losses += loss.item()
        return loss.item()

    def _note(self) -> None:
        """Append to the curve, POINTS times in all: the mean loss since the last point, and the quality."""
        steps = self.recipe.steps
        due = [steps * point // POINTS for point in range(POINTS + 1)]
        if self.step in due:
            since = self.step - max(step for step in due if step < self.step)
            quality = self.objective.quality()
            self.curve.append({"pairs": self.step * self.recipe.batch, "loss": self.losses / since, **quality})
            self.losses = 0.0
            LOG.info("%s", ", ".join(f"{name} {value:,.10g}" for name, value in self.curve[-1].items()))

    def _stop(self, number: int) -> None:
        where = f"saved in {self.state}; the same command resumes" if self.state else "nothing saved without --state"
        LOG.info("Stopped at step %d of %d: %s", self.step, self.recipe.steps, where)
        raise SystemExit(128 + number)
