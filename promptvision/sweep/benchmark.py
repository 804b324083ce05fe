"""A benchmark: a YAML file of configs, what they are crossed with, seeds, and where each run is tested again."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from promptvision.errors import InputError, unknown
from promptvision.safe_yaml import read_yaml

KEYS = ("RUNS", "GRID", "SEEDS", "EVAL", "SET")
ROW_FILES = ("CONFIG", "SEARCH")
LARGEST = 100_000
"""Combinations of a grid."""


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


def load_benchmark(path: str | Path) -> Benchmark | Parts:
    """The benchmark of a YAML file, or those that its PARTS name; whatever is wrong with it raises InputError."""
    content = read_plain_yaml(path, "benchmark")
    if "PARTS" not in content:
        return _benchmark(path, content)
    parts = content["PARTS"]
    if len(content) > 1 or not isinstance(parts, dict) or not all(isinstance(each, str) for each in parts.values()):
        raise InputError(f"benchmark {path}: PARTS takes a name: path of a benchmark for each part, and nothing beside")
    files = {str(name): Path(path).parent / each for name, each in parts.items()}
    return Parts({name: _benchmark(file, read_plain_yaml(file, "benchmark")) for name, file in files.items()})


def _benchmark(path: str | Path, content: Mapping[str, Any]) -> Benchmark:
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of benchmark {path}", key, KEYS)
    runs, grid, seeds = content.get("RUNS"), content.get("GRID") or {}, content.get("SEEDS") or [1]
    evals, settings = content.get("EVAL") or {}, content.get("SET") or []
    if not isinstance(runs, dict) or not all(_is_run(run) for run in runs.values()):
        raise InputError(f"benchmark {path} needs RUNS, a name: {{CONFIG: path, ...}} for each row of its table")
    _check_grid(path, grid)
    _check_rest(path, evals, settings, [seeds, *(run.get("SEEDS", []) for run in runs.values())])
    rows = {str(name): _row(Path(path).parent, run) for name, run in runs.items()}
    if evals and any(row.search for row in rows.values()):
        raise InputError(f"benchmark {path}: rows with SEARCH are tested once, as their grid says, and take no EVAL")
    return Benchmark(rows, grid, seeds, {str(name): each for name, each in evals.items()}, settings)


def _row(folder: Path, run: Mapping[str, Any]) -> Row:
    search = folder / run["SEARCH"] if "SEARCH" in run else None
    return Row(folder / run["CONFIG"], without(run, "SEEDS", *ROW_FILES), search, run.get("SEEDS", ()))


def _check_grid(path: str | Path, grid: Any) -> None:
    if not _is_setting(grid) or not all(isinstance(values, list) and values for values in grid.values()):
        raise InputError(f"benchmark {path}: GRID needs a list of values for each key")
    check_size(f"benchmark {path}", grid)
    for keys, values in grid.items():
        if " " in keys and not all(isinstance(each, list) and len(each) == len(keys.split()) for each in values):
            raise InputError(
                f"benchmark {path}: each value of GRID {keys} must be a list of {len(keys.split())} values"
            )


def _check_rest(path: str | Path, evals: Any, settings: Any, seeds: Sequence[Any]) -> None:
    if not isinstance(evals, dict) or not all(_is_setting(changes) for changes in evals.values()):
        raise InputError(f"benchmark {path}: EVAL needs a name: {{KEY: value, ...}} for each place to test in")
    if not isinstance(settings, list) or not all(_is_setting(s) and _is_setting(s.get("WHEN", {})) for s in settings):
        raise InputError(f"benchmark {path}: SET is a list of {{KEY: value, ..., WHEN: {{KEY: value, ...}}}}")
    if not all(isinstance(each, list) and all(isinstance(seed, int) for seed in each) for each in seeds):
        raise InputError(f"benchmark {path}: SEEDS is a list of whole numbers")


def _is_run(found: Any) -> bool:
    return _is_setting(found) and "CONFIG" in found and all(isinstance(found.get(k, ""), str) for k in ROW_FILES)


def _is_setting(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(key, str) for key in found)


def check_size(what: str, grid: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a grid that nobody could walk through."""
    count = math.prod(len(values) for values in grid.values())
    if count > LARGEST:
        raise InputError(f"{what}: GRID has {count:.0e} combinations; at most {LARGEST:,} can be gone through")


def read_plain_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file."""
    content = read_yaml(Path(path), what)
    if not isinstance(content, dict):
        raise InputError(f"{what} {path} should hold KEY: value lines")
    return content
