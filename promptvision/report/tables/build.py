"""The tables of a report: mean and 95 % interval over seeds, calibration, what was learned, time and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from promptvision.report.cells import Cell, inner_differences
from promptvision.report.comparable import notes
from promptvision.report.kinds import TITLES, places
from promptvision.report.sections import BY_DATASET, Row, Section
from promptvision.report.tables.over_shots import over_shots, shot_counts, shots_name
from promptvision.report.tables.table import (
    Column,
    Entry,
    Table,
    mark_best,
    number_entry,
    score_entry,
    without_empty_columns,
)

ABOUT = {
    "base_to_new": "Trained on the base classes. H: harmonic mean of the mean over seeds of base and of new, for the "
    "average that of the averages, as CoCoOp takes it.",
    "uda": "Columns: labelled source → unlabelled target. Of VisDA the mean over classes of each class's accuracy.",
    "vtab": "Natural, Specialized and Structured: means of 7, 4 and 8 tasks; mean: of all 19.",
    "continual": "Accuracies and forgetting after the last task.",
}
INTERVAL = "Per cent: mean ± half of the 95 % interval over seeds (Student's t)."
MISSING = "*: some data sets are missing."
BLIND = "Grey: no training image is looked at, so that their number changes nothing."
AT_MOST = "ECE, parameters, seconds and memory are those with the most shots."
COSTS = ("ECE", "seeds", "learned", "% of backbone", "seconds", "memory (MB)")


def table(section: Section) -> Table:
    """The table of a section, with numbered notes on the rows; what all rows share stands in its title."""
    shown = over_shots(section) or section
    dataset, shots = (
        BY_DATASET.get(section.kind),
        shot_counts(section) if shown is section and section.kind != "continual" else [],
    )
    head = [Column("method", number=False, head=True)]
    head += [Column(dataset, number=False, head=True)] if dataset and len(_datasets(section)) > 1 else []
    head += [Column("shots", head=True)] if len(shots) > 1 else []
    scores = [Column(name, score=True, low=name.startswith("forgetting")) for name in shown.columns]
    columns = [*head, *scores, *map(Column, COSTS)]
    made = Table(_title(section, shots), columns, [], _about(section, shown), kind=section.kind)
    found = _notes(shown)
    for row in shown.rows:
        numbers = [made.note(sentence) for sentence in found[id(row)]]
        told = {"method": Entry(" ".join([row.label, *numbers])), "shots": _shots(row)}
        entries = [told.get(column.name, Entry(row.dataset)) for column in head]
        made.rows.append([*entries, *(score_entry(row.scores.get(name)) for name in shown.columns), *_costs(row)])
    if not dataset or len(_datasets(section)) == 1:
        mark_best(made)
    if shown is not section:
        _mark_levels(made, shown)
    without_empty_columns(made)
    return made


def _shot_column(section: Section, shown: Section) -> list[int]:
    """The numbers of shots that a column could tell apart."""
    return [] if section.kind == "continual" or shown is not section else shot_counts(section)


def _datasets(section: Section) -> list[str]:
    return list(dict.fromkeys(row.dataset for row in section.rows))


def _title(section: Section, shots: Sequence[int]) -> str:
    """`Base to new classes: world_sketches, 16 shots`"""
    shared = _datasets(section) if section.kind in BY_DATASET else section.columns
    told = [*(shared if len(shared) == 1 else []), *(map(shots_name, shots) if len(shots) == 1 else [])]
    return f"{TITLES[section.kind]}: {', '.join(told)}" if told else TITLES[section.kind]


def _about(section: Section, shown: Section) -> str:
    missing = any(score.missing for row in shown.rows for score in row.scores.values())
    blind = shown is not section and any(row.cells[0].blind for row in shown.rows)
    told = [ABOUT.get(section.kind, ""), INTERVAL, MISSING * missing, BLIND * blind, AT_MOST * (shown is not section)]
    return " ".join(filter(None, told))


def _mark_levels(made: Table, shown: Section) -> None:
    """Of methods that look at no training image, each number that is not the best of its column."""
    for number, row in enumerate(shown.rows):
        if row.cells[0].blind:
            scores = zip(made.columns, made.rows[number], strict=True)
            made.rows[number] = [replace(e, mark="level") if c.score and not e.mark else e for c, e in scores]


def _shots(row: Row) -> Entry:
    return number_entry(row.cells[0].shots, "{}") if row.cells else Entry("")


def _costs(row: Row) -> list[Entry]:
    """Calibration, seeds, learned parameters, their share, seconds of training, and the most memory, with the most
    shots."""
    most = max((cell.shots for cell in row.cells), default=0)
    results = [result for cell in row.cells if cell.shots == most for result in cell.results]
    if not results:
        return [Entry("")] * len(COSTS)
    seeds = sorted({len(cell.runs) for cell in row.cells})
    shares = [share for share in map(_share, results) if share is not None]
    memory = [n / 2**20 for r in results if (n := _number(r, "peak_memory_bytes"))]
    return [
        number_entry(_mean(results, "ece"), "{:.1f}"),
        Entry("-".join(str(n) for n in (seeds if len(seeds) < 2 else [seeds[0], seeds[-1]])), seeds[0]),
        number_entry(_mean(results, "learned_parameters"), "{:,.0f}"),
        number_entry(sum(shares) / len(shares) if shares else None, "{:.2f}"),
        number_entry(_mean(results, "seconds"), "{:.1f}"),
        number_entry(max(memory, default=None), "{:,.0f}"),
    ]


def _share(result: Mapping[str, Any]) -> float | None:
    learned, of = _number(result, "learned_parameters"), _number(result, "backbone_parameters")
    return None if learned is None or not of else 100 * learned / of


def _number(result: Mapping[str, Any], key: str) -> float | None:
    value = result.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mean(results: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [value for result in results if (value := _number(result, key)) is not None]
    return sum(values) / len(values) if values else None


def _notes(section: Section) -> dict[int, list[str]]:
    """{id of a row: what its reader must know}"""
    named = {f"{r.label}, {c.dataset}{_suffix(c)}": (r, c) for r in section.rows for c in r.cells}
    found: dict[int, list[str]] = {id(row): [] for row in section.rows}
    for told in _told(section.kind, {name: cell for name, (_, cell) in named.items()}):
        for name, sentences in told.items():
            found[id(named[name][0])] += sentences
    for row in section.rows:
        left = sum(int(_number(result, "bad_pictures") or 0) for cell in row.cells for result in cell.results)
        found[id(row)] += [f"{left} images that cannot be read were left out; each run names its own"] if left else []
        found[id(row)] += [f"within this row {each}" for each in inner_differences(row.cells)]
    return {key: list(dict.fromkeys(sentences)) for key, sentences in found.items()}


def _told(kind: str, named: Mapping[str, Cell]) -> list[dict[str, list[str]]]:
    """The notes on the training and on every test elsewhere."""
    tests: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(dict)
    for name, cell in named.items():
        tests[""][name] = cell.results
        for where, test in places(cell, kind).items():
            tests[where][name] = [run.evals[test] for run in cell.runs if test in run.evals]
    return [notes(each) for each in tests.values()]


def _suffix(cell: Cell) -> str:
    return f", {cell.shots} shots" if cell.shots else ""
