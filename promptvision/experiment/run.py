"""From a config to a result: the one place that reads the whole config and knows backbones, data and engine."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from yacs.config import CfgNode

from promptvision.config import dump, resolved
from promptvision.engine.best_epoch import Best
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.device import autocast, choose_device
from promptvision.engine.distributed import check, is_first
from promptvision.engine.evaluate import evaluate
from promptvision.engine.optim import build_optimizer
from promptvision.engine.resume import first_epoch
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import Watch, fit
from promptvision.errors import InputError
from promptvision.experiment.build import Families, check_origin, given_domains, load_method, start_from
from promptvision.experiment.data import Data, load_data
from promptvision.experiment.feature_cache import FeatureCache
from promptvision.experiment.loaders import feature_cache, test_loader, train_loader
from promptvision.experiment.result import describe, environment, identity, learned_metadata
from promptvision.experiment.schedule import base_rate, epochs, per_step, rates
from promptvision.method import Batches, Method
from promptvision.safe_yaml import WRONG, parse

LOG = logging.getLogger(__name__)


def run(
    cfg: CfgNode, families: Families, folder: RunFolder, *, progress: bool = True, watch: Watch | None = None
) -> dict[str, Any]:
    """Train, evaluate, and leave in `folder` all that a table needs; gives the contents of result.json.

    `watch` may give the run up after a validation, which raises Pruned. Of several processes (engine/team.py) only the
    first evaluates, and the others give what training tells.
    """
    if cfg.CONTINUAL.TASKS or cfg.CONTINUAL.DATASETS:
        raise InputError("CONTINUAL asks for a stream of tasks; tools/continual.py learns one, tools/train.py does not")
    data = load_data(cfg)
    method = load_method(cfg, families, data.classes)
    begin(cfg, folder)
    cache = feature_cache(cfg, method, progress=progress)
    prepare(cfg, families[cfg.METHOD.FAMILY], data, method, cache)
    trained = train(cfg, data, method, folder, cache, progress, watch)
    if not is_first():
        return trained
    finish(cfg, data, method, cache)
    save_learned(folder.learned, method.learned_state(), learned_metadata(cfg, data.card, method))
    found = test(cfg, data, method, cache, progress)
    result = {**found, **trained, **describe(cfg, data, method), **environment(method)}
    folder.write_result(result)
    return result


def begin(cfg: CfgNode, folder: RunFolder) -> None:
    """The run's config in its folder, and where its curves go besides."""
    if cfg.LOG.WANDB and is_first():
        folder.follow_online(cfg.LOG.WANDB, resolved(cfg))
    folder.write_config(dump(cfg))


def prepare(cfg: CfgNode, family: ModuleType, data: Data, method: Method, cache: FeatureCache | None) -> None:
    """What the method does before training, then METHOD.WEIGHTS."""
    with autocast(choose_device(cfg.TRAIN.DEVICE), cfg.TRAIN.PRECISION):
        method.prepare(*unaugmented(cfg, data, method, cache))
    if cfg.METHOD.WEIGHTS:
        start_from(cfg, family, method)


def finish(cfg: CfgNode, data: Data, method: Method, cache: FeatureCache | None) -> None:
    """What the method does after training."""
    method.eval()
    with autocast(choose_device(cfg.TRAIN.DEVICE), cfg.TRAIN.PRECISION):
        method.finish(*unaugmented(cfg, data, method, cache))


def unaugmented(cfg: CfgNode, data: Data, method: Method, cache: FeatureCache | None) -> tuple[Batches, Batches]:
    """The training and validation images as a test sees them; nothing is read before somebody walks through."""
    train, val = (
        test_loader(cfg, data, method, split, cache, ahead=False) if getattr(data.images, split) else ()
        for split in ("train", "val")
    )
    return train, val


def train(
    cfg: CfgNode,
    data: Data,
    method: Method,
    folder: RunFolder,
    cache: FeatureCache | None,
    progress: bool,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """`fit` with everything the config says; a method that learns nothing reads no training images."""
    began = time.monotonic()
    learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if learned and len(method.classes) == 1 and cfg.OPTIM.EPOCHS:
        raise InputError(f"there is one class only, {method.classes[0]!r}: training needs another to tell it from")
    optim, device = cfg.OPTIM, choose_device(cfg.TRAIN.DEVICE)
    optimizer = build_optimizer(
        optim.NAME,
        learned.items(),
        base_rate(cfg),
        optim.WEIGHT_DECAY,
        optim.MOMENTUM,
        method.no_decay,
        optim.EPS,
        optim.BIAS_MULTIPLIER,
    )
    check(method, min(optim.BATCH_SIZE, len(data.images.train)))
    loader = train_loader(cfg, data, method, first_epoch(folder), cache) if learned else None
    batches = len(loader) if loader else 1
    best = _best(cfg, folder, method, batches) if learned and is_first() else None
    val = test_loader(cfg, data, method, "val", cache) if learned and cfg.TRAIN.EVAL_EVERY else ()
    prepared = {"train_features": loader and loader.source, "preparation_seconds": round(time.monotonic() - began, 3)}
    fitted = fit(
        method,
        loader or (),  # type: ignore[arg-type]
        optimizer,
        rates(cfg, batches),
        folder,
        seed=cfg.SEED,
        device=device,
        precision=cfg.TRAIN.PRECISION,
        clip=cfg.OPTIM.CLIP,
        checkpoint_every=cfg.TRAIN.CHECKPOINT_EVERY,
        checkpoint_seconds=cfg.TRAIN.CHECKPOINT_SECONDS,
        validate=(lambda epoch: _validate(cfg, method, val, epoch, best)) if is_first() else None,
        validate_every=cfg.TRAIN.EVAL_EVERY,
        watch=watch,
        identity=identity(cfg, data),
        per_step=per_step(cfg),
        progress=progress,
    )
    return {**fitted, **prepared, **(best.restore() if best else {})}


def _best(cfg: CfgNode, folder: RunFolder, method: Method, batches: int) -> Best | None:
    """Where the best epoch is kept, if the config asks for it."""
    if cfg.TRAIN.KEEP == "last":
        return None
    if not 0 < cfg.TRAIN.EVAL_EVERY <= epochs(cfg, batches):
        raise InputError("TRAIN.KEEP best needs evaluations on the validation images: set TRAIN.EVAL_EVERY 1")
    return Best(folder, method)


def _validate(cfg: CfgNode, method: Method, val: Batches, epoch: int, best: Best | None) -> dict[str, Any]:
    found = evaluate(method, val, choose_device(cfg.TRAIN.DEVICE), cfg.TRAIN.PRECISION)
    if best:
        best.note(epoch, found)
    return found


def test(
    cfg: CfgNode, data: Data, method: Method, cache: FeatureCache | None, progress: bool = False
) -> dict[str, Any]:
    """The scores on TEST.SPLIT, and whether features came from the cache."""
    split, device = cfg.TEST.SPLIT, choose_device(cfg.TRAIN.DEVICE)
    loader = test_loader(cfg, data, method, split, cache)
    found = evaluate(method, loader, device, cfg.TRAIN.PRECISION, progress=f"testing on {split}" if progress else "")
    return {"split": split, **found, "test_features": loader.source}


def load_run(cfg: CfgNode, families: Families, folder: str | Path) -> Method:
    """The trained method of a run folder, for the classes it was trained on."""
    path = Path(folder) / "learned.safetensors"
    state, metadata = load_learned(path)
    check_origin(cfg, path, metadata)
    try:
        trained = parse(metadata["config"])["DATASET"]
    except WRONG as error:
        raise InputError(f"{path} does not hold the config it was trained with; train it anew") from error
    method = load_method(cfg, families, metadata["classes"], given_domains(trained))
    if "task" in metadata:  # of a stream: what later tasks would learn is out of use
        method.start_task(int(metadata["task"]), int(metadata["tasks"]))
    method.load_learned_state(state)
    return method


def retest(cfg: CfgNode, families: Families, folder: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Evaluate a run again, perhaps on other data: new classes are named if the method can."""
    method, data = load_run(cfg, families, folder), load_data(cfg)
    if data.classes != method.classes:
        LOG.info("the run was trained on %d other classes: naming %d new ones", len(method.classes), len(data.classes))
        method = method.for_classes(data.classes)
    cache = feature_cache(cfg, method, progress=progress)
    return {**test(cfg, data, method, cache, progress), **describe(cfg, data, method), **environment(method)}
