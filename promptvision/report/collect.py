"""Run folders below a folder, read without trusting their contents."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptvision.atomic import file_hash, read_json
from promptvision.engine.earlier_run import flat
from promptvision.errors import InputError
from promptvision.safe_yaml import read_yaml

BLIND = ("zero_shot", "tpt")
"""Methods that look at no training image, unless they start from learned weights."""
Kinds = dict[str, type | tuple[type, ...]]
NEEDED: Kinds = {"accuracy": (int, float), "dataset": (str, list), "options": dict, "classes": list}
NEEDED |= {"method": str, "family": str, "backbone": str, "seed": int}
"""Keys of a result.json that every table needs, with their types."""
KNOWN: Kinds = {"protocol": dict, "train_hash": str, "test_hash": str, "n": int, "bad_pictures": int, "tasks": list}
KNOWN |= {"shots": int, "root": str}
"""Types of further keys that tables use."""
OWN = ("folder", "list", "hub_folder", "shards")
"""Cards of your own images: the last part of DATASET.ROOT tells several such datasets apart."""
STREAM: Kinds = {"continual": dict, "matrix": list, "tasks": list}
"""Further keys of a stream."""


@dataclass(frozen=True)
class Run:
    """One run folder: `name`, its path from the report's folder; `result`, its result.json; `settings`, its config as
    {"OPTIM.LR": 0.002 ...}; `evals`, {place: result} of its eval-<place>.json."""

    name: str
    folder: Path
    result: Mapping[str, Any]
    settings: Mapping[str, Any]
    evals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Return its SEED."""
        return int(self.result["seed"])

    @property
    def blind(self) -> bool:
        """Return whether its method looks at no training image."""
        return self.result["method"] in BLIND and not self.settings.get("METHOD.WEIGHTS")


def collect(root: str | Path) -> tuple[list[Run], list[str]]:
    """Return every finished run below `root`, ordered by name, and a sentence for each file that cannot be used."""
    root, runs, problems = Path(root), [], list[str]()
    if not root.is_dir():
        wrong = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {wrong}; name the folder that holds the runs")
    for here, folders, files in os.walk(root):
        folders.sort()
        stream = "stream.json" in files
        if "result.json" in files:
            try:
                runs.append(read_run(root, Path(here), problems))
                stream = stream or "continual" in runs[-1].result
            except InputError as error:
                problems.append(str(error))
        if stream:  # its tasks are no runs of their own
            folders[:] = [name for name in folders if not re.fullmatch(r"task_\d+", name)]
    if not runs:
        raise InputError("; ".join([f"{root} holds no finished run, a folder with a result.json", *problems[:3]]))
    return runs, problems


def read_run(root: Path, folder: Path, problems: list[str]) -> Run:
    """Read one run folder, and add a sentence to `problems` for each of its files that cannot be used."""
    result, evals = read_result(folder / "result.json"), dict[str, dict[str, Any]]()
    config, learned = folder / "config.yaml", folder / "learned.safetensors"
    for path in sorted(folder.glob("eval-*.json"), key=lambda path: path.stem):
        try:
            test = read_result(path)
            if (run := test.get("run_hash")) and learned.is_file() and run != file_hash(learned):
                raise InputError(f"{path} is left out: it evaluates another run than the one in its folder")
            evals[path.stem.removeprefix("eval-")] = test
        except InputError as error:
            problems.append(str(error))
    try:
        content = read_yaml(config, "config")
        settings = dict(flat(content if isinstance(content, dict) else {}))
    except InputError:
        problems.append(f"{config} cannot be read: the settings of its run are known from result.json alone")
        settings = _settings_from_result(result)
    place = Path(str(settings.get("DATASET.ROOT") or "")).name  # of a result that does not say its own
    for each in (result, *evals.values()):
        if each["dataset"] in OWN and (own := each.get("root", place)):
            each["dataset"] = f"{each['dataset']} ({own})"
    name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
    return Run(name, folder, result, settings, evals)


def read_result(path: Path) -> dict[str, Any]:
    """Read and check a result.json or eval-*.json; raise InputError with one sentence if a table cannot use it."""
    try:
        result = read_json(path)
    except InputError as error:
        raise InputError(f"{path} is left out: {str(error).removeprefix(f'{path} ')}") from error
    if not isinstance(result, dict):
        raise InputError(f"{path} is left out: it is not a result")
    known = {key: kinds for key, kinds in KNOWN.items() if key in result}
    for key, kinds in {**NEEDED, **known, **(STREAM if "continual" in result else {})}.items():
        if not isinstance(result.get(key), kinds) or isinstance(result[key], bool):
            raise InputError(f"{path} is left out: its {key} is missing or invalid")
    if "continual" in result and not _is_stream(result):
        raise InputError(f"{path} is left out: its tasks, or its accuracies of them, are invalid")
    if not 0 <= result["accuracy"] <= 100:
        raise InputError(f"{path} is left out: its accuracy is {result['accuracy']}")
    return result


def _is_stream(result: Mapping[str, Any]) -> bool:
    """Return whether a result has tasks with names, and a matrix with a row of accuracies (%) after each of them."""
    joint, matrix, tasks = result["continual"].get("JOINT"), result["matrix"], result["tasks"]
    lengths = [len(tasks)] if joint else list(range(1, 1 + len(tasks)))
    named = all(isinstance(task, dict) and isinstance(task.get("name"), str) for task in tasks)
    if not named or not isinstance(joint, bool) or [isinstance(row, list) and len(row) for row in matrix] != lengths:
        return False
    return all(type(value) in (int, float) and 0 <= value <= 100 for row in matrix for value in row)


def _settings_from_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that result.json knows, for a run whose config is lost."""
    keys = {"METHOD.FAMILY": "family", "METHOD.NAME": "method", "BACKBONE.NAME": "backbone", "DATASET.NAME": "dataset"}
    keys |= {"INPUT.TRAIN": "train_transform", "INPUT.TEST": "test_transform", "INPUT.RESIZE": "resize"}
    keys |= {"TRAIN.PRECISION": "precision"}
    parts = {"METHOD": {"OPTIONS": result["options"]}, "DATASET": result.get("protocol")}
    return {**dict(flat(parts)), **{key: result.get(name) for key, name in keys.items()}}
