"""A benchmark: a YAML file of configs, what they are crossed with, seeds, and where each run is tested again."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One number of a table: a config with what it sets differently, to be run once per seed and tested again at each
    place of `evals` (name -> what is set there), or searched (`search`: a file of configs/vpt/grids)."""

    name: str
    config: Path
    overrides: Mapping[str, Any]
    search: Path | None
    seeds: Sequence[int]
    evals: Mapping[str, Mapping[str, Any]]
    part: str = ""

    @property
    def title(self) -> str:
        """Its name among all cells of the file."""
        return f"{self.part}: {self.name}" if self.part else self.name

    def folder(self, root: str | Path) -> Path:
        """Where its runs lie."""
        return Path(root) / file_name(self.part) / file_name(self.name)


@dataclass(frozen=True)
class Row:
    """A row of the table: its config, what it sets there, a grid to be searched, and seeds of its own."""

    config: Path
    overrides: Mapping[str, Any]
    search: Path | None = None
    seeds: Sequence[int] = ()


@dataclass(frozen=True)
class Benchmark:
    """RUNS x GRID, each SEEDS times.

    RUNS: name -> {CONFIG: path from the file's folder, KEY: value ...}; with SEEDS, these in place of the table's; with
    SEARCH, the path of a grid of settings, they are searched and tested as that says, with its seeds. GRID: KEY -> list
    of values, all combined, but not with rows that set KEY themselves; of several keys that change together, "KEY KEY"
    -> list of lists. EVAL: name -> {KEY: value ...}, where every run is tested again after training. SET: a list of
    {KEY: value ..., WHEN: {KEY: value or list of values ...}}, what all cells set, or those with these values; RUN in
    WHEN is the name of a row. It wins over rows and GRID, the last over the others.
    """

    runs: Mapping[str, Row]
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    evals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Sequence[Mapping[str, Any]] = ()

    def cells(self) -> Iterator[Cell]:
        """Every number of the table, the runs of one combination of the grid after another."""
        seen = set[str]()
        for changes in combinations(self.grid):
            for name, row in self.runs.items():
                cell = self._cell(name, row, _crossed(changes, row))
                if cell.name not in seen:
                    yield cell
                seen.add(cell.name)

    def _cell(self, name: str, row: Row, changes: Mapping[str, Any]) -> Cell:
        named = [" -> ".join(map(str, value)) if " " in key else str(value) for key, value in changes.items()]
        values = {**_apart(changes), **row.overrides}
        found = {**values, **_settings(self.settings, {"RUN": name, **values})}
        return Cell(", ".join([name, *named]), row.config, found, row.search, row.seeds or self.seeds, self.evals)


@dataclass(frozen=True)
class Parts:
    """Several benchmarks in one file, each with a folder of its own: PARTS, name -> path from the file's folder."""

    parts: Mapping[str, Benchmark]

    def cells(self) -> Iterator[Cell]:
        """Those of one part after another."""
        return (replace(cell, part=name) for name, part in self.parts.items() for cell in part.cells())


def _crossed(changes: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """The changes of a grid that the row does not settle itself."""
    return {keys: value for keys, value in changes.items() if not row.overrides.keys() >= set(keys.split())}


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value per key, the first key slowest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _apart(changes: Mapping[str, Any]) -> dict[str, Any]:
    """KEY -> value, of keys that change together each with its own."""
    found: dict[str, Any] = {}
    for keys, value in changes.items():
        found |= zip(keys.split(), value, strict=True) if " " in keys else {keys: value}
    return found


def _settings(settings: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell with these values sets."""
    found: dict[str, Any] = {}
    for setting in settings:
        wanted = setting.get("WHEN", {}).items()
        if all(key in values and values[key] in (each if isinstance(each, list) else [each]) for key, each in wanted):
            found |= without(setting, "WHEN")
    return found


def without(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The mapping but for these keys."""
    return {key: value for key, value in mapping.items() if key not in names}


def file_name(name: str) -> str:
    """A name without what a file system might not take."""
    return re.sub(r"[^\w.+-]+", "_", name)
