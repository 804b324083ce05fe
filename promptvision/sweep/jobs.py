"""The jobs of a benchmark: every cell with every seed, those that are done, and doing one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from yacs.config import CfgNode

from promptvision.atomic import read_json, write_json
from promptvision.config import changed, config_of, read_files, resolved
from promptvision.config.load import Setting
from promptvision.engine.earlier_run import earlier_result
from promptvision.errors import InputError, NotWritten
from promptvision.sweep.benchmark import Cell, file_name
from promptvision.sweep.completed import Families, config_hash, finished, once, retest_once, retested
from promptvision.sweep.search import Search, load_search, search

if TYPE_CHECKING:
    from promptvision.engine.together.stack import Member

Result = dict[str, Any]
CONDITION = re.compile(r"(RUN|SEED|[A-Z_]+(\.[A-Z_0-9]+)+)=")
"""The start of a KEY=VALUE word of `--only`."""
QUOTED = re.compile(r"""^(["'])(.*)\1$""")
"""A value of `--only` in quotes of its own; a row as `CoOp, "a photo of a"` keeps its quotes."""
PLACED = ("SEED", "OUTPUT_DIR")
"""Keys that the table itself sets in every run, which overrides of a whole sweep may not."""


@dataclass(frozen=True)
class Job:
    """One run of a cell with its later tests, or the whole search of a cell with its final runs."""

    name: str
    cfg: CfgNode
    evals: Mapping[str, CfgNode] = field(default_factory=dict)
    search: Search | None = None
    part: str = ""
    overwrite: bool = False
    """True if its runs may replace other runs in their folders."""

    @property
    def title(self) -> str:
        """Return its name in messages."""
        return f"{self.name}, search" if self.search else f"{self.name}, seed {self.cfg.SEED}"

    @property
    def runs(self) -> int:
        """Return its number of runs and tests."""
        return len(self.search.settings()) + len(self.search.seeds) if self.search else 1 + len(self.evals)

    @property
    def identity(self) -> str:
        """Return what a finished search must agree with."""
        return f"{config_hash(self.cfg)} {self.search}"


class Outcome(NamedTuple):
    """The results of a job, one per seed, a sentence for each failure, and (title, result) of each run or test whose
    file cannot be written."""

    results: list[Result]
    failures: list[str]
    unwritten: Sequence[tuple[str, Result]] = ()


def plan(
    cells: Iterable[Cell], output: str | Path, overrides: Sequence[Any], families: Families, only: Sequence[str] = ()
) -> list[Job]:
    """Return the jobs that `only` selects, all if it is empty; `overrides` (KEY, VALUE, ...) hold in every run.

    `only`: KEY=VALUE words, of which those with one KEY are alternatives (RUN is the name of a row), and names of
    cells: a word that is no whole name selects the cells that contain it. InputError for overrides that contradict a
    selected cell.
    """
    files, wanted, jobs = cache(read_files), _wanted(only), list[Job]()
    for cell in _named(list(cells), [word for word in only if not CONDITION.match(word)]):
        known = {**cell.settled, "RUN": cell.run}
        if any(key in known and str(known[key]) not in values for key, values in wanted.items()):
            continue
        given = [*_words(_sourced(cell.overrides, cell.source)), *overrides]
        cfg, *tests = (
            config_of(files(cell.config), [*given, *_words(_sourced(more, cell.source))], families)
            for more in ({}, *cell.evals.values())
        )
        all_jobs = _jobs_of(cell, Path(output) / cell.folder, cfg, dict(zip(cell.evals, tests, strict=True)))
        if selected := [job for job in all_jobs if _matches(job.cfg, wanted)]:
            _refuse_contradictions(cell, overrides)
        jobs += selected
    return jobs


def _named(cells: Sequence[Cell], words: Sequence[str]) -> list[Cell]:
    """Return the cells that the words name, whole or in part; all if there are none."""
    whole = {cell.name for cell in cells} & {*words}
    parts = [word for word in words if word not in whole]
    return [cell for cell in cells if not words or cell.name in whole or any(part in cell.name for part in parts)]


def _wanted(only: Sequence[str]) -> dict[str, list[str]]:
    """Return the values that the KEY=VALUE words allow for each KEY."""
    wanted: dict[str, list[str]] = {}
    for word in filter(CONDITION.match, only):
        key, _, value = word.partition("=")
        wanted.setdefault(key, []).append(QUOTED.sub(r"\2", value))
    return wanted


def _jobs_of(cell: Cell, folder: Path, cfg: CfgNode, tests: Mapping[str, CfgNode]) -> list[Job]:
    """Return the job of each seed of a cell, with its later tests, or its search."""
    if cell.search:
        return [Job(cell.name, _placed(cfg, folder), search=load_search(cell.search), part=cell.part)]
    jobs = []
    for seed in cell.seeds:
        place = folder / f"seed{seed}"
        evals = {name: _placed(each, place, seed) for name, each in tests.items()}
        jobs.append(Job(cell.name, _placed(cfg, place, seed), evals, part=cell.part))
    return jobs


def _matches(cfg: CfgNode, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a config has one of the wanted values of each key."""
    for key, values in wanted.items():
        if key != "RUN":
            value: Any = cfg
            for part in key.split("."):
                if not isinstance(value, CfgNode) or part not in value:
                    raise InputError(f"--only {key}={values[0]}: {key} is no key of a config")
                value = value[part]
            if str(value) not in values:
                return False
    return True


def _refuse_contradictions(cell: Cell, overrides: Sequence[Any]) -> None:
    """Raise InputError if an override of the whole sweep changes what the table says of a cell."""
    for key, value in zip(overrides[::2], overrides[1::2], strict=False):
        if key in PLACED:
            instead = "SEEDS of the file, or --only SEED=N" if key == "SEED" else "--output"
            raise InputError(f"{key} {value} contradicts the table, which has a folder for each seed; use {instead}")
        if key in cell.settled and str(cell.settled[key]) != str(value):
            raise InputError(
                f"{key} {value} contradicts the table: {cell.name} has {key} {cell.settled[key]}; change the file, or "
                f"choose cells with --only {key}={cell.settled[key]}"
            )
        if place := next((name for name, test in cell.evals.items() if key in test), None):
            raise InputError(f"{key} {value} contradicts the table: EVAL {place} of {cell.name} sets {key}")


def _sourced(overrides: Mapping[str, Any], source: str) -> dict[str, Setting]:
    """Return overrides that errors ascribe to their file, not to the command line."""
    return {key: Setting(value, source) for key, value in overrides.items()}


def _words(pairs: Mapping[str, Any]) -> list[Any]:
    return [word for pair in pairs.items() for word in pair]


def _placed(cfg: CfgNode, folder: Path, seed: int | None = None) -> CfgNode:
    """Return the same config for this folder and seed; frozen, and with the same sections."""
    found = CfgNode()
    found.update(cfg, OUTPUT_DIR=str(folder), SEED=cfg.SEED if seed is None else seed)
    found.freeze()
    return found


def refuse_others(jobs: Sequence[Job]) -> None:
    """Raise InputError if the folder of a job holds another run; the runs of a search are checked one by one."""
    for job in (job for job in jobs if not (job.search or job.overwrite)):
        earlier_result(resolved(job.cfg), job.cfg.OUTPUT_DIR)


def done(job: Job) -> Outcome | None:
    """Return the outcome of a job that is finished with the same config; run nothing."""
    folder = job.cfg.OUTPUT_DIR
    if job.search:
        path = Path(folder) / "search.json"
        found = read_json(path) if path.is_file() else None
        return Outcome(found["runs"], []) if found and found.get("job") == job.identity else None
    result = finished(job.cfg, folder)
    evals = {place: retested(cfg, folder, file_name(place)) for place, cfg in job.evals.items()}
    if result is None or None in evals.values():
        return None
    return Outcome([{**result, "evals": evals} if evals else result], [])


def do(
    job: Job,
    families: Families,
    folder: str | Path = "",
    *,
    progress: bool = False,
    member: Member | None = None,
) -> Outcome:
    """Do a job, or the rest of it; bad input, in the run or in one of the tests, becomes a sentence.

    `folder`: the place of its files instead of OUTPUT_DIR. `member`: its place among jobs that train together.
    """
    place, results = Path(folder or job.cfg.OUTPUT_DIR), list[Result]()
    try:
        if job.search:
            tried = search(
                job.search,
                lambda each: changed(job.cfg, _words(each), families),
                families,
                place,
                overwrite=job.overwrite,
            )
            results = tried["runs"]
            write_json(place / "search.json", {"job": job.identity, **tried})
            return Outcome(results, [])
        result = once(job.cfg, families, place, overwrite=job.overwrite, progress=progress, member=member)
    except NotWritten as error:
        whole = not job.search and "accuracy" in error.result  # neither a trial of a search nor a task of a stream
        return Outcome([error.result] if whole else [], [f"{job.title}: {error}"], [(job.title, error.result)])
    except InputError as error:
        return Outcome(results, [f"{job.title}: {error}"])
    return _tested(job, result, families, place)


def _tested(job: Job, result: Result, families: Families, place: Path) -> Outcome:
    """Do the later tests of a job's run, whose result is known."""
    evals, failures, unwritten = dict[str, Result](), [], []
    for name, cfg in job.evals.items():
        try:
            evals[name] = retest_once(cfg, families, place, file_name(name))
        except InputError as error:
            failures.append(f"{job.title}, {name}: {error}")
            if isinstance(error, NotWritten):
                evals[name] = error.result
                unwritten.append((f"{job.title}, {name}", error.result))
    return Outcome([{**result, "evals": evals} if evals else result], failures, unwritten)
