"""Benchmark files: what they say, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptvision.errors import InputError, unknown
from promptvision.safe_yaml import read_yaml
from promptvision.sweep.benchmark import Benchmark, Parts, Row, without

KEYS = ("RUNS", "GRID", "SEEDS", "EVAL", "SET")
ROW_FILES = ("CONFIG", "SEARCH")
LARGEST = 100_000
"""Combinations of a grid."""


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
