"""The runs below a folder: what each left behind, read without trusting it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptvision.errors import InputError
from promptvision.safe_yaml import WRONG, parse

LARGEST = 64 * 2**20
"""Bytes of a result.json or metrics.jsonl; a config.yaml may have a hundredth of that."""
MOST_KEYS = 2000
"""Of one config."""
NEEDED: Mapping[str, tuple[type, ...]] = {
    "accuracy": (int, float),
    "method": (str,),
    "family": (str,),
    "backbone": (str,),
    "dataset": (str, list),
    "seed": (int,),
    "options": (dict,),
    "classes": (list,),
}
"""Keys of a result.json without which no table can hold it."""
STREAM: Mapping[str, tuple[type, ...]] = {"continual": (dict,), "matrix": (list,), "tasks": (list,)}
"""Those that a stream has besides."""


@dataclass(frozen=True)
class Run:
    """One run folder: `name`, its path from the report's folder; `result`, its result.json; `settings`, its config as
    {"OPTIM.LR": 0.002 ...}, empty if it is lost; `evals`, {place: result} of its eval-<place>.json."""

    name: str
    folder: Path
    result: Mapping[str, Any]
    settings: Mapping[str, Any]
    evals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def collect(root: str | Path) -> tuple[list[Run], list[str]]:
    """(every finished run below `root` in the order of their names, a sentence for each file that cannot be used)."""
    root, runs, problems = Path(root), [], list[str]()
    if not root.is_dir():
        raise InputError(f"OUTPUT_DIR {root} is not a folder; give the one that holds the runs")
    for folder in _folders(root):
        try:
            runs.append(_read_run(root, folder, problems))
        except ValueError as error:
            problems.append(str(error))
    if not runs:
        raise InputError("; ".join([f"{root} holds no finished run, a folder with a result.json", *problems[:3]]))
    return runs, problems


def _folders(root: Path) -> Iterator[Path]:
    """Every folder with a result.json; those below a run are its parts, the tasks of a stream."""
    for here, folders, files in os.walk(root):
        folders.sort()
        if "result.json" in files:
            folders.clear()
            yield Path(here)


def _read_run(root: Path, folder: Path, problems: list[str]) -> Run:
    result, evals = _result(folder / "result.json"), {}
    for path in sorted(folder.glob("eval-*.json")):
        try:
            evals[path.stem.removeprefix("eval-")] = _result(path)
        except ValueError as error:
            problems.append(str(error))
    return Run(_name(root, folder), folder, result, _settings(folder / "config.yaml", result, problems), evals)


def _name(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else folder.resolve().name


def _result(path: Path) -> dict[str, Any]:
    """The checked contents of a result.json or eval-*.json."""
    result = read_json_file(path)
    if not isinstance(result, dict):
        raise ValueError(f"{path} is left out: it holds no result")
    for key, kinds in {**NEEDED, **(STREAM if "continual" in result else {})}.items():
        value = result.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{path} is left out: it has no {key}, or one that makes no sense")
    if not isinstance(result.get("protocol", {}), dict) or not all(_is_task(task) for task in result.get("tasks", ())):
        raise ValueError(f"{path} is left out: its protocol or its tasks make no sense")
    if not math.isfinite(result["accuracy"]):
        raise ValueError(f"{path} is left out: its accuracy is {result['accuracy']}")
    return result


def _is_task(task: object) -> bool:
    return isinstance(task, dict) and isinstance(task.get("name"), str)


def read_json_file(path: Path) -> Any:
    """Whatever JSON is in a file of a size that makes sense; else ValueError with one sentence."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is left out: it is larger than {LARGEST >> 20} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} is left out: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is left out: it is no JSON") from error


def _settings(path: Path, result: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The config, flat; what result.json tells of it where it is lost."""
    try:
        if path.stat().st_size > LARGEST // 100:
            raise ValueError("it is too large")
        config = parse(path.read_text(encoding="utf-8"))
        return dict(_flat(config if isinstance(config, dict) else {}, [MOST_KEYS]))
    except (OSError, *WRONG):
        problems.append(f"{path} cannot be read: what its run was set to is known from result.json alone")
    told = {"METHOD.FAMILY": "family", "METHOD.NAME": "method", "BACKBONE.NAME": "backbone", "DATASET.NAME": "dataset"}
    told |= {"INPUT.TRAIN": "train_transform", "INPUT.TEST": "test_transform", "TRAIN.PRECISION": "precision"}
    parts = {"METHOD": {"OPTIONS": result["options"]}, "DATASET": result.get("protocol")}
    return {**dict(_flat(parts, [MOST_KEYS])), **{key: result.get(name) for key, name in told.items()}}


def _flat(content: Mapping[Any, Any], left: list[int], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(KEY.SUBKEY, value) of nested mappings; values are plain or lists of plain ones."""
    for key, value in content.items():
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("it has too many keys")
        if isinstance(value, Mapping):
            yield from _flat(value, left, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", [_plain(each) for each in value[:100]] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else value[:200] if isinstance(value, str) else "..."
