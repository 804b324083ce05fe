"""From a config to a result: train a run, load it, test it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptvision.atomic import file_hash
from promptvision.config import resolved
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.distributed import is_first
from promptvision.engine.earlier_run import changed_since, earlier_result
from promptvision.engine.loop import Watch
from promptvision.engine.run_folder import LOG, RunFolder
from promptvision.engine.together.stack import Member
from promptvision.errors import InputError
from promptvision.experiment.build import Families, check_origin, load_method
from promptvision.experiment.continual import run_stream
from promptvision.experiment.data import load_data, match_classes, warn_of_empty_classes
from promptvision.experiment.experiment import build
from promptvision.experiment.half_precision import hold_frozen
from promptvision.experiment.loaders import Setup, feature_cache
from promptvision.experiment.memory import naming_sizes, suggesting_skip
from promptvision.experiment.result import describe, environment, evaluation_hash
from promptvision.method import Method
from promptvision.safe_yaml import WRONG, parse


@naming_sizes
@suggesting_skip
def run(
    cfg: CfgNode,
    families: Families,
    folder: RunFolder,
    *,
    progress: bool = True,
    watch: Watch | None = None,
    member: Member | None = None,
    after: Callable[[Setup], None] | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write result.json; return its contents. With CONTINUAL, do so for a stream of tasks.

    If the folder holds a finished run of the same config, its result is returned. If it holds another run, InputError
    is raised, unless the folder was opened to overwrite it.

    `watch` may stop a run early after a validation, which raises Pruned. `member`: the run's place among those that
    train together (engine/together/stack.py). `after` is called with the finished experiment, its data and features at
    hand. A stream ignores all three. Of several processes (engine/distributed.py) only the first one evaluates; the
    others return what training reports.
    """
    if is_first():
        found = earlier_result(resolved(cfg), folder.path, resume=folder.resume, overwrite=folder.overwrite)
        if found and not folder.overwrite:
            LOG.info("%s is finished; --overwrite trains it again", folder.path)
            return found
        unfinished = folder.checkpoint.exists() or (folder.path / "stream.json").exists()
        if unfinished and not folder.resume and not folder.overwrite:
            LOG.warning("Started again from scratch; --resume auto continues an unfinished run")
    if cfg.CONTINUAL.TASKS or cfg.CONTINUAL.DATASETS:
        return run_stream(cfg, families, folder, progress=progress)
    experiment = build(cfg, families, folder, progress, member=member)
    for split in dict.fromkeys(("train", cfg.TEST.SPLIT)):
        warn_of_empty_classes(experiment.data, split)
    loader = experiment.check_test_images(decode=experiment.starts_training()) if is_first() else None
    experiment.prepare()
    trained = experiment.train(watch, member)
    if not is_first():
        return trained
    experiment.finish()
    result = experiment.write(trained, experiment.test(loader, folder.predictions))
    if after:
        after(experiment)
    return result


@naming_sizes
def load_run(cfg: CfgNode, families: Families, folder: str | Path) -> Method:
    """Return the trained method of a run folder, for the classes it was trained on.

    A saved classifier that was given other classes is returned for those (deploy/classifier.py).
    """
    path = Path(folder) / "learned.safetensors"
    state, metadata = load_learned(path)
    check_origin(cfg, path, metadata)
    try:
        config = parse(metadata["config"])
        domains = {key: config["DATASET"].get(key, "") for key in ("SOURCE", "TARGET")}
        task, tasks = int(metadata.get("task", 0)), int(metadata.get("tasks", 1))
        if not 0 <= task < tasks or not all(isinstance(names, str) for names in domains.values()):
            raise ValueError
    except WRONG as error:
        raise InputError(f"{path} does not hold the config it was trained with; train it again") from error
    if made := changed_since(config, resolved(cfg)):
        raise InputError(f"{path} was learned by an earlier version, with {made}; give {made} to use it")
    method = load_method(cfg, families, metadata["classes"], domains)
    if tasks > 1:  # of a stream: what later tasks would learn is not used
        method.start_task(task, tasks)
    method.load_learned_state(state)
    return method.for_classes(metadata["named"]) if "named" in metadata else method


@naming_sizes
@suggesting_skip
def retest(
    cfg: CfgNode,
    families: Families,
    folder: str | Path,
    *,
    progress: bool = True,
    file: Callable[[dict[str, Any]], Path] | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run again, perhaps on other data, whose classes are matched with its own.

    `run_hash` and `evaluation_hash` of the result identify the run and what was evaluated. `file` takes the facts of
    the result and returns its file; the predictions are written beside it as .csv.
    """
    data = load_data(cfg)
    warn_of_empty_classes(data, cfg.TEST.SPLIT)
    method, data = match_classes(load_run(cfg, families, folder), data)
    cache = feature_cache(cfg, method, data.everything, progress=progress)
    hold_frozen(cfg, method)
    learned = Path(folder) / "learned.safetensors"
    evaluated = evaluation_hash(cfg, data, method, parse(load_learned(learned)[1]["config"]))
    names = {"run_hash": file_hash(learned), "evaluation_hash": evaluated}
    facts = {"split": cfg.TEST.SPLIT, **describe(cfg, data, method)}
    predictions = file({**facts, **names}).with_suffix(".csv") if file else None
    found = Setup(cfg, data, method, cache, progress).test(predictions=predictions)
    return {**found, **facts, **environment(method), **names}
