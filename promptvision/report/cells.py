"""Runs that differ in nothing but their seed, and what the rows that they stand in are called."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from promptvision.report.collect import Run
from promptvision.report.comparable import averageable
from promptvision.report.names import method_name
from promptvision.report.scores import Score, over_seeds

HOW = {"SEED", "OUTPUT_DIR", "CACHE_DIR", "DATASET.ROOT", "INPUT.CACHE"}
HOW |= {f"COMPUTE.{key}" for key in ("WAY", "CHUNK", "IMAGES_AT_ONCE")}
HOW |= {f"TRAIN.{key}" for key in ("DEVICE", "WORKERS", "THREADS", "CACHE", "CHECKPOINT_EVERY")}
"""Keys that say how and where a run is computed, not what."""
BLIND = ("zero_shot", "tpt")
"""Methods that look at no training image, unless they start from learned weights."""
PLACE = {f"DATASET.{key}" for key in ("NAME", "SHOTS", "CLASSES", "SOURCE", "TARGET")}
PLACE |= {f"CONTINUAL.{key}" for key in ("TASKS", "SEED", "ORDER", "DATASETS")}
"""Keys that say where in a table a run stands."""


@dataclass(frozen=True)
class Cell:
    """The runs of one number, one per seed, and the settings that they share."""

    runs: Sequence[Run]
    settings: Mapping[str, Any]

    @cached_property
    def results(self) -> list[Mapping[str, Any]]:
        """Every run's result."""
        return [run.result for run in self.runs]

    @property
    def first(self) -> Mapping[str, Any]:
        """The first seed's result, for what all share."""
        return self.runs[0].result

    @property
    def dataset(self) -> str:
        """Its name; of a stream over several, all."""
        name = self.first["dataset"]
        return name if isinstance(name, str) else ", ".join(map(str, name))

    @property
    def shots(self) -> int:
        """Training images per class; 0 for a method that looks at none, and where all are used."""
        shots = self.first.get("shots", 0)
        return shots if isinstance(shots, int) and not self.blind else 0

    @property
    def blind(self) -> bool:
        """Whether its method looks at no training image."""
        return _is_blind(self.runs[0])

    @property
    def place(self) -> str:
        """Where in a table it stands."""
        there = {key: value for key, value in self.settings.items() if key in PLACE}
        return json.dumps([self.dataset, self.shots, there], sort_keys=True, default=str)

    def score(self, key: str = "accuracy") -> Score | None:
        """Over the seeds; None where no run tells it."""
        return _score({run.result["seed"]: run.result for run in self.runs}, key)

    def eval_score(self, place: str, key: str = "accuracy") -> Score | None:
        """Over the seeds that were tested at `place`."""
        return _score({run.result["seed"]: run.evals[place] for run in self.runs if place in run.evals}, key)

    def evals(self) -> dict[str, Mapping[str, Any]]:
        """{place: the first seed's result there}"""
        return {place: result for run in reversed(self.runs) for place, result in run.evals.items()}


def _score(results: Mapping[int, Mapping[str, Any]], key: str) -> Score | None:
    values = {seed: float(result[key]) for seed, result in results.items() if isinstance(result.get(key), int | float)}
    return over_seeds(values, averageable(list(results.values()))) if values else None


def cells(runs: Iterable[Run]) -> tuple[list[Cell], list[str]]:
    """(the cells in the order of their first runs, a sentence for each run that repeats another)."""
    found: dict[str, list[Run]] = defaultdict(list)
    shared, repeated = {}, []
    for run in runs:
        settings = _shared(run)
        key = json.dumps([settings, run.result["dataset"]], sort_keys=True, default=str)
        shared[key] = settings
        twin = next((each for each in found[key] if each.result["seed"] == run.result["seed"]), None)
        if twin is None:
            found[key].append(run)
        elif not _is_blind(run):
            repeated.append(f"{run.name} is left out: it repeats seed {run.result['seed']} of {twin.name}")
    return [Cell(sorted(found[key], key=_seed), shared[key]) for key in found], repeated


def _is_blind(run: Run) -> bool:
    return run.result["method"] in BLIND and not run.settings.get("METHOD.WEIGHTS")


def _seed(run: Run) -> int:
    return int(run.result["seed"])


def _shared(run: Run) -> dict[str, Any]:
    """The settings that decide the number; a method that learns from nothing has no training to set."""
    blind = _is_blind(run)
    return {
        key: value
        for key, value in run.settings.items()
        if key not in HOW and not (blind and (key == "DATASET.SHOTS" or key.startswith("OPTIM.")))
    }


def labels(found: Sequence[Cell]) -> list[str]:
    """What the row of each cell of one table is called: the method, its backbone if there are several, and the settings
    that tell it from another run of that method in the same place.

    A setting that changes only from place to place (epochs by shots, a rate tuned for a data set) makes no new row.
    """
    backbones = {cell.first["backbone"] for cell in found}
    names = [method_name(cell.first) + (f", {cell.first['backbone']}" if len(backbones) > 1 else "") for cell in found]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        groups[name].append(number)
    for name, members in groups.items():
        keys = _telling([found[number] for number in members])
        for number in members:
            told = ", ".join(_told(key, found[number].settings) for key in keys)
            names[number] = f"{name} ({told})" if told else name
    return names


def _telling(group: Sequence[Cell]) -> list[str]:
    """Keys, options first, until no two cells in one place are called the same."""
    kept: list[str] = []
    every = {key for cell in group for key in cell.settings if key not in PLACE}
    for key in sorted(every, key=lambda key: (not key.startswith("METHOD.OPTIONS."), key)):
        alike: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for cell in group:
            alike[(cell.place, *_told_apart(cell, kept))].add(_text(cell, key))
        if any(len(values) > 1 for values in alike.values()):
            kept.append(key)
    return kept


def _told_apart(cell: Cell, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_text(cell, key) for key in keys)


def _text(cell: Cell, key: str) -> str:
    return json.dumps(cell.settings.get(key), default=str)


def _told(key: str, settings: Mapping[str, Any]) -> str:
    """`ctx_init a photo of a`, `no csc`"""
    name, value = key.rpartition(".")[2].lower(), settings.get(key)
    if key not in settings:
        return f"{name} unknown"
    if value is True:
        return name
    if value in (False, "", None) or value == []:
        return f"no {name}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def inner_differences(row: Sequence[Cell]) -> list[str]:
    """`OPTIM.EPOCHS is 50, 100, 200`: settings, known of all cells of a row, that differ between them."""
    every = dict.fromkeys(key for cell in row for key in cell.settings if key not in PLACE)
    every = dict.fromkeys(key for key in every if all(key in cell.settings for cell in row))
    values = {key: list(dict.fromkeys(str(cell.settings.get(key)) for cell in row)) for key in every}
    return [f"{key} is {', '.join(each[:6])}" for key, each in values.items() if len(each) > 1]
