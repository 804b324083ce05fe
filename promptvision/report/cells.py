"""Cells of a table, the runs that differ only in their seed, and the names of the rows that they belong to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from promptvision.engine.earlier_run import as_made, decides
from promptvision.report.collect import Run
from promptvision.report.comparable import averageable
from promptvision.report.names import method_name
from promptvision.report.scores import Score, over_seeds

HOW = ("SEED", "DATASET.ROOT", "INPUT.CACHE")
"""Keys that change no result, beside those that `decides` leaves out."""
PLACE = {f"DATASET.{key}" for key in ("NAME", "SHOTS", "CLASSES", "SOURCE", "TARGET")}
PLACE |= {f"CONTINUAL.{key}" for key in ("TASKS", "SEED", "ORDER", "DATASETS")}
"""Keys that decide the place of a run in a table."""


class Cell:
    """The runs of one number, one per seed, in the order of their seeds.

    `first` is the first seed's result; `settings` are shared by all runs; `dataset` is the name of the dataset, of a
    stream over several all names; `shots` are the training images per class, 0 for all and for a method that looks at
    none (`blind`); `place` is the same for cells of several methods in one place of a table; `evals` is {name of a
    later test: the first seed's result}.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        self.results = [run.result for run in runs]
        self.first, self.blind = runs[0].result, runs[0].blind
        self.settings = shared_settings(runs[0])
        names, shots = self.first["dataset"], self.first.get("shots", 0)
        self.dataset = names if isinstance(names, str) else ", ".join(map(str, names))
        self.shots = shots if isinstance(shots, int) and not self.blind else 0
        place = {key: value for key, value in self.settings.items() if key in PLACE}
        self.place = json.dumps([self.dataset, self.shots, place], sort_keys=True, default=str)
        self.evals = {test: result for run in reversed(runs) for test, result in run.evals.items()}

    def score(self, key: str = "accuracy", test: str | None = None) -> Score | None:
        """Return the score over seeds, or that of the later test of this name; None if no run has it."""
        found = {run.seed: run.result if test is None else run.evals.get(test, {}) for run in self.runs}
        known = {seed: result for seed, result in found.items() if isinstance(result.get(key), int | float)}
        values = {seed: float(result[key]) for seed, result in known.items()}
        images = min((int(each.get("n") or 0) for each in known.values()), default=0) if key == "accuracy" else 0
        return over_seeds(values, averageable(list(known.values())), images) if values else None


def cells(runs: Iterable[Run]) -> tuple[list[Cell], list[str]]:
    """Group runs that differ only in their seed; return the cells, and a sentence for each run that repeats another."""
    found: dict[str, list[Run]] = defaultdict(list)
    repeated = []
    for run in runs:
        group = found[json.dumps([shared_settings(run), run.result["dataset"]], sort_keys=True, default=str)]
        twin = next((each for each in group if each.seed == run.seed), None)
        if twin is None:
            group.append(run)
        elif not run.blind:
            repeated.append(f"{run.name} is left out: it repeats seed {run.seed} of {twin.name}")
    return [Cell(sorted(group, key=lambda run: run.seed)) for group in found.values()], repeated


def shared_settings(run: Run) -> dict[str, Any]:
    """Return the settings that decide the result of a run, without those of training for a method that has none.

    What the config of an earlier version lacks is as its run was computed.
    """
    return {
        key: value
        for key, value in as_made(run.settings).items()
        if key not in HOW
        and decides(key, run.settings)
        and not (run.blind and (key == "DATASET.SHOTS" or key.startswith("OPTIM.")))
    }


def labels(found: Sequence[Cell]) -> list[str]:
    """Return the row name of each cell of one table: the method, its backbone (a file without folders) if there are
    several, and the settings that distinguish it from another run of that method in the same place.

    A setting that changes only from place to place (epochs by shots, a rate tuned for a dataset) makes no new row.
    """
    several = len({cell.first["backbone"] for cell in found}) > 1
    backbones = [f", {PurePath(cell.first['backbone']).name}" if several else "" for cell in found]
    names = [method_name(cell.first) + backbone for cell, backbone in zip(found, backbones, strict=True)]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        groups[name].append(number)
    for name, members in groups.items():
        keys = _distinguishing([found[number] for number in members])
        for number in members:
            described = ", ".join(_setting_text(key, found[number].settings) for key in keys)
            names[number] = f"{name} ({described})" if described else name
    return names


def _distinguishing(group: Sequence[Cell]) -> list[str]:
    """Return keys, options first, such that no two cells in one place have the same values."""
    kept: list[str] = []
    values = [{key: json.dumps(value, default=str) for key, value in cell.settings.items()} for cell in group]
    every = {key for each in values for key in each if key not in PLACE}
    for key in sorted(every, key=lambda key: (not key.startswith("METHOD.OPTIONS."), key)):
        alike: dict[tuple[str | None, ...], set[str | None]] = defaultdict(set)
        for cell, each in zip(group, values, strict=True):
            alike[(cell.place, *map(each.get, kept))].add(each.get(key))
        if any(len(different) > 1 for different in alike.values()):
            kept.append(key)
    return kept


def _setting_text(key: str, settings: Mapping[str, Any]) -> str:
    """Return a setting as a row name shows it: `ctx_init a photo of a`, `no csc`."""
    name, value = key.rpartition(".")[2].lower(), settings.get(key)
    if key not in settings:
        return f"{name} unknown"
    if value is True:
        return name
    if value in (False, "", None) or value == []:
        return f"no {name}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def inner_differences(row: Sequence[Cell]) -> list[str]:
    """Return `OPTIM.EPOCHS is 50, 100, 200` for each setting of all cells of a row that differs between them."""
    keys = [key for key in row[0].settings if key not in PLACE] if row else []
    values = {
        key: list(dict.fromkeys(str(cell.settings[key]) for cell in row))
        for key in keys
        if all(key in cell.settings for cell in row)
    }
    return [f"{key} is {', '.join(each[:6])}" for key, each in values.items() if len(each) > 1]
