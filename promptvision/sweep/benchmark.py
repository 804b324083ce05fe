"""A benchmark: a YAML file of configs, the grid they are crossed with, seeds, and later tests of each run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from promptvision.config.conditional import checked_table, holds, is_setting, overrides_of
from promptvision.config.files import check_exists, find_config
from promptvision.errors import InputError, unknown
from promptvision.safe_yaml import read_yaml

KEYS = ("RUNS", "GRID", "SEEDS", "EVAL", "SET")
ROW_FILES = ("CONFIG", "SEARCH")
LARGEST = 10_000
"""Runs of a benchmark, or combinations of a grid; more are a mistake that would take all time and memory."""


@dataclass(frozen=True)
class Cell:
    """One number of a table: a config with its overrides, to be run once per seed and tested again at each place of
    `evals` (name -> overrides of the test), or searched (`search`: a file of configs/vpt/grids).

    `name` is unique in its file, `folder` the place of its runs below the output folder. `run` is the name of its row,
    `settled` what row and GRID set: overrides of a whole sweep must not contradict it. `source`: its file, for errors.
    """

    name: str
    folder: Path
    config: Path
    overrides: Mapping[str, Any]
    search: Path | None
    seeds: Sequence[int]
    evals: Mapping[str, Mapping[str, Any]]
    part: str = ""
    run: str = ""
    settled: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table: its config, its overrides, a grid to be searched, and seeds of its own."""

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
    {KEY: value ..., WHEN: {KEY: value or list of values ...}}, overrides of all cells, or of those with these values;
    RUN in WHEN is the name of a row. It wins over rows and GRID, the last over the others.
    """

    runs: Mapping[str, Row]
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    evals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Sequence[Mapping[str, Any]] = ()
    part: str = ""
    source: str = ""

    def cells(self) -> Iterator[Cell]:
        """Yield every number of the table, the rows of one combination of the grid after another."""
        seen = set[str]()
        for changes in combinations(self.grid):
            for name, row in self.runs.items():
                crossed = {k: value for k, value in changes.items() if not row.overrides.keys() >= set(k.split())}
                values = [" -> ".join(map(str, value)) if " " in k else str(value) for k, value in crossed.items()]
                title = ", ".join([name, *values])
                if title not in seen:
                    seen.add(title)
                    settled: dict[str, Any] = {}
                    for keys, value in crossed.items():
                        settled |= zip(keys.split(), value, strict=True) if " " in keys else {keys: value}
                    settled |= row.overrides
                    yield Cell(
                        f"{self.part}: {title}" if self.part else title,
                        Path(file_name(self.part), file_name(title)),
                        row.config,
                        self.overrides(name, settled),
                        row.search,
                        row.seeds or self.seeds,
                        self.evals,
                        self.part,
                        name,
                        settled,
                        self.source,
                    )

    def overrides(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the overrides of a row with these values of row and GRID: SET wins over them."""
        known, found = {"RUN": name, **values}, dict[str, Any]()
        for setting in self.settings:
            found |= overrides_of(setting) if holds(setting, known) else {}
        return {**values, **found}


def load_cells(path: str | Path) -> list[Cell]:
    """Return the cells of a benchmark file, or of those that its PARTS name; raise InputError for whatever is wrong.

    PARTS: name -> path of a benchmark from the file's folder; each part has a folder of its own.
    """
    path = find_config(path)
    content = read_mapping(path, "benchmark")
    if "PARTS" not in content:
        return list(checked_benchmark(path, content).cells())
    parts = content["PARTS"]
    if len(content) > 1 or not isinstance(parts, dict) or not all(isinstance(each, str) for each in parts.values()):
        raise InputError(f"benchmark {path}: PARTS takes a name: path of a benchmark for each part, and no other key")
    files = {str(name): Path(path).parent / each for name, each in parts.items()}
    made = [checked_benchmark(file, read_mapping(file, "benchmark"), name) for name, file in files.items()]
    return [cell for benchmark in made for cell in benchmark.cells()]


def checked_benchmark(path: str | Path, content: Mapping[str, Any], part: str = "") -> Benchmark:
    """Make a benchmark of the contents of its file."""
    for key in content:
        if key not in KEYS:
            raise unknown(f"key of benchmark {path}", key, KEYS)
    runs, grid, seeds = content.get("RUNS"), content.get("GRID") or {}, content.get("SEEDS") or [1]
    evals, settings = content.get("EVAL") or {}, checked_table(f"benchmark {path}", content.get("SET") or [])
    rows = _checked_rows(path, runs)
    if not isinstance(evals, dict) or not all(map(is_setting, evals.values())):
        raise InputError(f"benchmark {path}: EVAL needs a name: {{KEY: value, ...}} for each later test")
    lists = [seeds, *(row.seeds for row in rows.values() if row.seeds != ())]
    if not all(isinstance(each, list) and all(isinstance(seed, int) for seed in each) for each in lists):
        raise InputError(f"benchmark {path}: SEEDS is a list of whole numbers")
    _check_rows_of_conditions(path, rows, settings)
    check_grid(f"benchmark {path}", grid, len(rows) * max(map(len, lists)))
    if twice := [seed for own in lists for n, seed in enumerate(own) if seed in own[:n]]:
        raise InputError(f"benchmark {path}: SEEDS has {twice[0]} twice; name each seed once")
    if evals and any(row.search for row in rows.values()):
        raise InputError(f"benchmark {path}: rows with SEARCH are tested once, as their grid says, and take no EVAL")
    return Benchmark(
        rows, grid, seeds, {str(name): each for name, each in evals.items()}, settings, part, f"benchmark {path}"
    )


def _check_rows_of_conditions(path: str | Path, rows: Mapping[str, Row], settings: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a row in the WHEN of a SET that is not in the table, where the SET would never hold."""
    for setting in settings:
        wanted = setting.get("WHEN", {}).get("RUN", [])
        for name in wanted if isinstance(wanted, list) else [wanted]:
            if name not in rows:
                raise unknown(f"RUN in the SET of benchmark {path}", str(name), rows)


def _checked_rows(path: str | Path, runs: Any) -> dict[str, Row]:
    wrong = InputError(f"benchmark {path} needs RUNS, a name: {{CONFIG: path, ...}} for each row of its table")
    if not isinstance(runs, dict):
        raise wrong
    rows = {}
    for name, run in runs.items():
        if not is_setting(run) or not all(isinstance(run.get(key, ""), str) for key in ROW_FILES):
            raise wrong
        if "CONFIG" not in run:
            near = get_close_matches("CONFIG", run, n=1)
            hint = f", for which {near[0]} may stand" if near else ", the path of its config file"
            raise InputError(f"benchmark {path}: row {str(name)!r} lacks CONFIG{hint}")
        config, search = (Path(path).parent / run.get(key, "") for key in ROW_FILES)
        overrides = {key: value for key, value in run.items() if key not in ("SEEDS", *ROW_FILES)}
        rows[str(name)] = Row(config, overrides, search if "SEARCH" in run else None, run.get("SEEDS", ()))
    return rows


def check_grid(what: str, grid: Any, times: int = 1) -> None:
    """Raise InputError for a GRID that is not lists of values, or has more than LARGEST combinations x `times`."""
    if not is_setting(grid) or not all(isinstance(values, list) and values for values in grid.values()):
        raise InputError(f"{what}: GRID needs a list of values for each key")
    for keys, values in grid.items():
        count = len(keys.split())
        if " " in keys and not all(isinstance(each, list) and len(each) == count for each in values):
            raise InputError(f"{what}: each value of GRID {keys} must be a list of {count} values")
    combined = times * math.prod(len(values) for values in grid.values())
    if combined > LARGEST:
        raise InputError(f"{what}: GRID has {combined:.0e} combinations; at most {LARGEST:,} are possible")


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every choice of one value per key, the first key slowest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file."""
    check_exists(Path(path), what)
    content = read_yaml(Path(path), what)
    if not isinstance(content, dict):
        raise InputError(f"{what} {path} should hold KEY: value lines")
    return content


def file_name(name: str) -> str:
    """Replace characters that a file system might not accept."""
    return re.sub(r"[^\w.+-]+|^\.+$", "_", name)
