"""The jobs of a benchmark: every cell with every seed, what is done of them, and doing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from promptvision.atomic import read_json, write_json
from promptvision.config import changed, load_config
from promptvision.errors import InputError
from promptvision.experiment.build import Families
from promptvision.sweep.benchmark import Benchmark, Cell, Parts, file_name
from promptvision.sweep.completed import config_hash, finished, once, retest_once, retested
from promptvision.sweep.search import Search, load_search, search

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a cell, with the tests that follow it; or the whole search of a cell and its final runs."""

    name: str
    cfg: CfgNode
    evals: Mapping[str, CfgNode] = field(default_factory=dict)
    search: Search | None = None
    part: str = ""

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"{self.name}, search" if self.search else f"{self.name}, seed {self.cfg.SEED}"

    @property
    def runs(self) -> int:
        """How many runs and tests it holds."""
        return self.search.runs if self.search else 1 + len(self.evals)


class Outcome(NamedTuple):
    """The results of a job, one per seed, and a sentence for each thing that failed."""

    results: list[Result]
    failures: list[str]


def plan(
    benchmark: Benchmark | Parts, output: str | Path, overrides: Sequence[Any], families: Families, only: str = ""
) -> list[Job]:
    """The jobs of all cells whose title holds `only`; `overrides` (KEY, VALUE, ...) hold in every run."""
    return [
        job
        for cell in benchmark.cells()
        if only in cell.title
        for job in _jobs(cell, cell.folder(output), overrides, families)
    ]


def _jobs(cell: Cell, folder: Path, overrides: Sequence[Any], families: Families) -> Iterator[Job]:
    def configure(changes: Mapping[str, Any]) -> CfgNode:
        return load_config(cell.config, [*_words(cell.overrides), *overrides, *_words(changes)], families)

    cfg, tested = configure({}), {name: configure(changes) for name, changes in cell.evals.items()}
    if cell.search:
        yield Job(cell.title, _placed(cfg, folder), {}, load_search(cell.search), cell.part)
        return
    for seed in cell.seeds:
        place = folder / f"seed{seed}"
        evals = {name: _placed(each, place, seed) for name, each in tested.items()}
        yield Job(cell.title, _placed(cfg, place, seed), evals, part=cell.part)


def _placed(cfg: CfgNode, folder: Path, seed: int | None = None) -> CfgNode:
    """The same config for this folder and seed; frozen."""
    found = cfg.clone()
    found.defrost()
    found.OUTPUT_DIR = str(folder)
    found.SEED = cfg.SEED if seed is None else seed
    found.freeze()
    return found


def _words(pairs: Mapping[str, Any]) -> list[Any]:
    return [word for pair in pairs.items() for word in pair]


def done(job: Job) -> Outcome | None:
    """The outcome of a job that is finished, config and all; nothing is run."""
    if job.search:
        found = _searched(job)
        return Outcome(found["runs"], []) if found else None
    result = finished(job.cfg)
    evals = {place: retested(cfg, job.cfg.OUTPUT_DIR, file_name(place)) for place, cfg in job.evals.items()}
    if result is None or None in evals.values():
        return None
    return Outcome([_with_evals(result, evals)], [])


def do(job: Job, families: Families, folder: str | Path = "", *, progress: bool = False) -> Outcome:
    """The job, or the rest of it. Bad input, here or in one of the tests, becomes a sentence.

    `folder`: where it leaves its files in place of OUTPUT_DIR.
    """
    place = Path(folder or job.cfg.OUTPUT_DIR)
    try:
        if job.search:
            return Outcome(_search(job, families, place), [])
        result = once(job.cfg, families, place, progress=progress)
    except InputError as error:
        return Outcome([], [f"{job.title}: {error}"])
    evals, failures = {}, []
    for name, cfg in job.evals.items():
        try:
            evals[name] = retest_once(cfg, families, place, file_name(name))
        except InputError as error:
            failures.append(f"{job.title}, {name}: {error}")
    return Outcome([_with_evals(result, evals) if job.evals else result], failures)


def _with_evals(result: Result, evals: Mapping[str, Any]) -> Result:
    return {**result, "evals": evals} if evals else result


def _search(job: Job, families: Families, folder: Path) -> list[Result]:
    assert job.search
    find, cfg = job.search, job.cfg
    found = search(find, lambda changes: changed(cfg, _words(changes), families), families, folder)
    write_json(folder / "search.json", {"job": _identity(job), **found})
    return found["runs"]


def _searched(job: Job) -> dict[str, Any] | None:
    path = Path(job.cfg.OUTPUT_DIR) / "search.json"
    found = read_json(path) if path.is_file() else {}
    return found if found.get("job") == _identity(job) else None


def _identity(job: Job) -> str:
    return f"{config_hash(job.cfg)} {job.search}"
