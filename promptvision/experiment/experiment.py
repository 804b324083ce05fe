"""An experiment: one run, from its data and method to its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from torch.optim import Optimizer
from yacs.config import CfgNode

from promptvision.config import dump, resolved
from promptvision.data.loader import groups_of, smallest_batch
from promptvision.engine.best_epoch import Best
from promptvision.engine.checkpoint import save_learned
from promptvision.engine.device import autocast
from promptvision.engine.distributed import check, is_first
from promptvision.engine.evaluate import evaluate
from promptvision.engine.loop import Watch
from promptvision.engine.losses import EarlyLoss
from promptvision.engine.optim import build_optimizer
from promptvision.engine.resume import first_epoch
from promptvision.engine.run_folder import LOG, RunFolder
from promptvision.engine.together.stack import Member
from promptvision.engine.train import fit
from promptvision.errors import InputError, as_called
from promptvision.experiment.build import Families, load_method, start_from
from promptvision.experiment.data import Data, load_data
from promptvision.experiment.half_precision import hold_frozen
from promptvision.experiment.loaders import Setup, feature_cache
from promptvision.experiment.loss import check_loss, set_loss
from promptvision.experiment.result import describe, environment, identity, learned_metadata
from promptvision.experiment.schedule import alike, base_rate, epochs, per_step, rates, stage_starts
from promptvision.experiment.stacked import in_features, why_alone
from promptvision.method import Batches


@dataclass(frozen=True)
class Experiment(Setup):
    """A method, its data and the folder of the run that trains it."""

    family: ModuleType
    folder: RunFolder

    def start(self) -> None:
        """Write config.yaml, which removes an earlier run, and connect to Weights & Biases if LOG.WANDB asks for it."""
        if self.cfg.LOG.WANDB and is_first():
            self.folder.connect_wandb(self.cfg.LOG.WANDB, resolved(self.cfg))
        self.folder.write_config(dump(self.cfg))

    def starts_training(self) -> bool:
        """Return whether training steps are ahead and none has been done."""
        resumes = self.folder.resume and self.folder.checkpoint.exists()
        learns = any(parameter.requires_grad for parameter in self.method.parameters())
        return learns and self.cfg.OPTIM.EPOCHS > 0 and not resumes

    def prepare(self) -> None:
        """Let the method prepare on the images, and load METHOD.WEIGHTS."""
        with autocast(self.device, self.cfg.TRAIN.PRECISION):
            self.method.prepare(*self.to_prepare())
        if self.cfg.METHOD.WEIGHTS:
            start_from(self.cfg, self.family, self.method)

    def train(self, watch: Watch | None = None, member: Member | None = None) -> dict[str, Any]:
        """Train as configured, as `member` of a stack if that is given; return the part of result.json about training.

        An earlier run in the folder is removed when all is ready for the first step. A method that learns nothing step
        by step reads no training images.
        """
        started, cfg, method = time.monotonic(), self.cfg, self.method
        optimizer = self._optimizer()
        self._check_batches(cfg.OPTIM.ACCUMULATE if optimizer else 1)
        loader = self.train_loader(first_epoch(self.folder)) if optimizer else None
        set_loss(cfg, method, self.data.images.train, self.device)
        batches = len(loader) if loader else 1
        if loader:
            self._check_evaluations(batches)
        if loader and member and (reason := why_alone(cfg, method)):
            LOG.info("Trains alone: %s", reason)
            member = None
        best = Best(self.folder, method) if loader and is_first() and cfg.TRAIN.KEEP != "last" else None
        watched = "test" if cfg.TRAIN.KEEP == "best_test" else "val"
        val = self.test_loader(watched) if loader and cfg.TRAIN.EVAL_EVERY else ()
        seconds = round(time.monotonic() - started, 3)
        prepared = {"train_features": loader and loader.source, "preparation_seconds": seconds}
        learning_rates = rates(cfg, batches, method.stages)
        self.start()
        fitted = fit(
            method,
            in_features(cfg, method, loader, self.device) if loader and member else loader,
            optimizer,
            learning_rates,
            self.folder,
            seed=cfg.SEED,
            device=self.device,
            precision=cfg.TRAIN.PRECISION,
            clip=cfg.OPTIM.CLIP,
            accumulate=cfg.OPTIM.ACCUMULATE,
            checkpoint_every=cfg.TRAIN.CHECKPOINT_EVERY,
            checkpoint_seconds=cfg.TRAIN.CHECKPOINT_SECONDS,
            validate=(lambda epoch: self._validate(val, epoch, best)) if is_first() else None,
            validate_every=cfg.TRAIN.EVAL_EVERY,
            patience=cfg.TRAIN.PATIENCE,
            watch=watch,
            identity=identity(cfg, self.data),
            per_step=per_step(cfg),
            stages=stage_starts(cfg, batches, method.stages),
            alike=alike(cfg, batches),
            progress=self.progress,
            graph=cfg.COMPUTE.GRAPH,
            member=member,
            early=EarlyLoss(cfg.OPTIM.BATCH_SIZE * cfg.OPTIM.ACCUMULATE, len(method.classes), cfg.OPTIM.LR),
        )
        stacked = {"stacked": member.together} if member and member.together > 1 else {}
        return {**fitted, **prepared, **stacked, **(best.restore() if best else {})}

    def finish(self) -> None:
        """Let the method choose by validation images and save the learned tensors."""
        self.method.eval()
        with autocast(self.device, self.cfg.TRAIN.PRECISION):
            self.method.finish(*self.unaugmented())
        self.save()

    def save(self) -> None:
        """Write learned.safetensors."""
        metadata = learned_metadata(self.cfg, self.data, self.method)
        save_learned(self.folder.learned, self.method.learned_state(), metadata)

    def write(self, trained: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        """Write result.json with what training and testing found; return its contents."""
        facts = describe(self.cfg, self.data, self.method)
        result = {**found, **trained, **facts, **environment(self.method)}
        self.folder.write_result(result)
        return result

    def _optimizer(self) -> Optimizer | None:
        """Return the optimiser that OPTIM describes, None for a method that learns nothing step by step."""
        optim = self.cfg.OPTIM
        return build_optimizer(
            optim.NAME,
            self.method.named_parameters(),
            base_rate(self.cfg),
            optim.WEIGHT_DECAY,
            optim.MOMENTUM,
            self.method.no_decay,
            optim.EPS,
            optim.BIAS_MULTIPLIER,
            self.method.rate_factors,
        )

    def _check_batches(self, accumulate: int) -> None:
        """Raise InputError if the method or the number of processes does not allow the smallest batch of an epoch."""
        optim = self.cfg.OPTIM
        groups = groups_of(self.data.images.train, optim.ONE_CLASS)
        sizes = [smallest_batch(len(group), optim.BATCH_SIZE, optim.DROP_LAST) for group in groups]
        check(self.method, min(sizes, default=0), accumulate)

    def _check_evaluations(self, batches: int) -> None:
        """Raise InputError if a key asks for the best epoch and no epoch is evaluated."""
        train = self.cfg.TRAIN
        needed = {f"TRAIN.KEEP {train.KEEP}": train.KEEP != "last"}
        needed[f"TRAIN.PATIENCE {train.PATIENCE}"] = train.PATIENCE > 0
        watched = "test" if train.KEEP == "best_test" else "validation"
        for key, asked in needed.items():
            if asked and not 0 < train.EVAL_EVERY <= epochs(self.cfg, batches):
                raise InputError(f"{key} needs evaluations on the {watched} images: set TRAIN.EVAL_EVERY 1")

    def _validate(self, val: Batches, epoch: int, best: Best | None) -> dict[str, Any]:
        title = "validating" if self.progress else ""
        found = evaluate(self.method, val, self.device, self.cfg.TRAIN.PRECISION, among=self.among, progress=title)
        if best:
            best.note(epoch, found)
        return found


def build(
    cfg: CfgNode,
    families: Families,
    folder: RunFolder,
    progress: bool,
    data: Data | None = None,
    member: Member | None = None,
) -> Experiment:
    """Read the data, unless they are given, and build the method and its feature cache; nothing is written.

    Runs that train together, each a `member`, read the dataset once and have one feature cache.
    """
    data = data or load_data(cfg, member)
    trained = data.trained or data.classes
    if trained[: len(data.classes)] != data.classes:
        raise InputError(
            f"DATASET.TRAIN_CLASSES {cfg.DATASET.TRAIN_CLASSES} trains for DATASET.CLASSES base or all; "
            + as_called("python tools/eval.py tests the run on new classes")
        )
    method = load_method(cfg, families, trained)
    check_loss(cfg, method)
    make_cache = partial(feature_cache, cfg, method, data.everything, progress=progress)
    cache = member.shared("features", make_cache) if member else make_cache()
    hold_frozen(cfg, method, training=cfg.OPTIM.EPOCHS > 0)
    return Experiment(cfg, data, method, cache, progress, families[cfg.METHOD.FAMILY], folder)
