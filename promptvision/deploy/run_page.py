"""The page of one run, run.html: its images and features are gathered here, and the report package writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from promptvision.atomic import read_json, write_atomically
from promptvision.config import load_config, resolved, with_defaults
from promptvision.deploy.duplicates import near_duplicates
from promptvision.deploy.thumbnails import thumbnails
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.earlier_run import decides, differences, flat
from promptvision.engine.results.predictions_file import Predicted, read_predictions
from promptvision.errors import InputError, as_called, without_formula
from promptvision.experiment.build import Families
from promptvision.experiment.data import load_data, match_classes
from promptvision.experiment.loaders import Setup, feature_cache
from promptvision.experiment.run import load_run
from promptvision.report.page.run import MOST_PAIRS, LearnedTensor, Near, Pair, RunView, run_page, shown_paths

SECONDS = 3
"""Time that features for near-duplicates may take after training, where they are in no cache."""


@dataclass(frozen=True)
class Changes:
    """Settings of a run that differ from those of `preset`: {key: (the preset's value, the run's)}."""

    preset: str
    values: Mapping[str, tuple[Any, Any]]


def write_run_page(setup: Setup | str, folder: Path, changes: Changes, file: Path, seconds: float = math.inf) -> None:
    """Write the page of the finished run in a folder to `file`; InputError if the run has no predictions.

    `setup`: the data and the method of the run, or a sentence why its images are not at hand. `seconds`: the time that
    features for near-duplicates may take where they are in no cache.
    """
    result = read_json(folder / "result.json")
    predictions = read_predictions(folder / "predictions.csv", result["classes"])
    where, missing = paths_of(setup, predictions) if isinstance(setup, Setup) else ({}, setup)
    near = near_duplicates(setup, seconds) if where and isinstance(setup, Setup) else Near([], missing)
    safe = [Pair(without_formula(each.test), without_formula(each.train), each.cosine) for each in near.pairs]
    shown = {path: where[path] for path in shown_paths(predictions) if path in where}
    shown |= {without_formula(path): path for each in near.pairs[:MOST_PAIRS] for path in (each.test, each.train)}
    view = RunView(
        name=folder.resolve().name,
        result=result,
        predictions=predictions,
        learned=learned_tensors(folder / "learned.safetensors"),
        preset=changes.preset,
        changed=changes.values,
        near=Near(safe, near.said),
        thumbnails=thumbnails(setup.data.images, shown) if isinstance(setup, Setup) else {},
        missing=missing,
    )
    write_atomically(file, run_page(view).encode("utf-8", errors="replace"))


def write_page_of(
    folder: Path, file: Path, families: Families, *, trust: bool = False, seconds: float = math.inf
) -> None:
    """Write the page of a finished run, loaded again from its folder for its images and features, to `file`."""
    cfg = load_config(folder / "config.yaml", [], families, trust=trust, of_run=True)
    write_run_page(setup_of(cfg, families, folder), folder, changes(cfg, families), file, seconds)


def changes(cfg: CfgNode, families: Families, preset: str = "", trust: bool = False) -> Changes:
    """Return the settings that differ from those of the config file `preset`, from the defaults if it makes no run
    without the overrides of this one; those that make no other run are left out."""
    try:
        alone = load_config(preset, [], families, trust=trust) if preset else None
    except InputError:
        alone = None
    if alone:
        return Changes(preset, differences(resolved(alone), resolved(cfg)))
    known = dict(flat(resolved(cfg)))
    pairs = {key: pair for key, pair in with_defaults(cfg, families).items() if pair[0] != pair[1]}
    return Changes("the defaults", {key: pair for key, pair in pairs.items() if decides(key, known)})


def setup_of(cfg: CfgNode, families: Families, folder: Path) -> Setup | str:
    """Return the data and the method of a finished run, or a sentence why its images cannot be shown; InputError for a
    stream of tasks, which has no page of its own."""
    if "continual" in read_json(folder / "result.json"):
        command = as_called("python tools/report.py OUTPUT_DIR --html FILE")
        raise InputError(f"{folder} is a stream of tasks, which `{command}` shows")
    try:
        method, data = match_classes(load_run(cfg, families, folder), load_data(cfg))
    except InputError as error:
        return f"Images are not shown: {error}."
    return Setup(cfg, data, method, feature_cache(cfg, method, progress=True), True)


def paths_of(setup: Setup, predictions: Sequence[Predicted]) -> tuple[dict[str, str], str]:
    """Return {path in predictions.csv: path of the image}, or nothing and a sentence if the data are others now."""
    ours = [path for path, _, _ in getattr(setup.data.images, setup.cfg.TEST.SPLIT)]
    theirs = [each.path for each in predictions]
    if [without_formula(path) for path in ours] != theirs:
        return {}, "Images are not shown: the dataset has changed since the run was tested."
    return dict(zip(theirs, ours, strict=True)), ""


def learned_tensors(file: Path) -> list[LearnedTensor]:
    """Return the learned tensors of a run with their norms."""
    state, _ = load_learned(file)
    return [
        LearnedTensor(name, list(each.shape), each.numel(), float(torch.linalg.vector_norm(each.double())))
        for name, each in state.items()
    ]
