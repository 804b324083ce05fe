"""The tables of a report: mean and 95 % interval over seeds, calibration, what was learned, time and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from promptvision.report.cells import Cell, inner_differences
from promptvision.report.comparable import notes
from promptvision.report.kinds import TITLES, places
from promptvision.report.layout import Column, Entry, Table, mark_best, number_entry, score_entry
from promptvision.report.sections import BY_DATASET, Row, Section

ABOUT = {
    "base_to_new": "Trained on the base classes. H: harmonic mean of the mean over seeds of base and of new, for the "
    "average that of the averages, as CoCoOp takes it.",
    "uda": "Columns: labelled source → unlabelled target. Of VisDA the mean over classes of each class's accuracy.",
    "vtab": "Natural, Specialized and Structured: means of 7, 4 and 8 tasks; mean: of all 19.",
    "continual": "Accuracies and forgetting after the last task.",
}
INTERVAL = "Per cent: mean ± half of the 95 % interval over seeds (Student's t). *: some data sets are missing."


def table(section: Section) -> Table:
    """The table of a section, with numbered notes on the rows."""
    shots = section.kind != "continual" and any(c.shots for r in section.rows for c in r.cells)
    dataset = BY_DATASET.get(section.kind)
    head = [Column("method", number=False, head=True)]
    head += [Column(dataset, number=False, head=True)] if dataset else []
    head += [Column("shots", head=True)] if shots else []
    costs = [Column(name) for name in ("ECE", "seeds", "learned", "% of backbone", "seconds", "memory (MB)")]
    columns = [*head, *(Column(name, score=True) for name in section.columns), *costs]
    made = Table(TITLES[section.kind], columns, [], " ".join([ABOUT.get(section.kind, ""), INTERVAL]).strip())
    found = _notes(section)
    for row in section.rows:
        numbers = [made.note(sentence) for sentence in found[id(row)]]
        entries = [Entry(" ".join([row.label, *numbers]))] + ([Entry(row.dataset)] if dataset else [])
        entries += [_shots(row)] if shots else []
        made.rows.append([*entries, *(score_entry(row.scores.get(name)) for name in section.columns), *_costs(row)])
    if not dataset:
        mark_best(made)
    return made


def _shots(row: Row) -> Entry:
    return number_entry(row.cells[0].shots, "{}") if row.cells else Entry("")


def _costs(row: Row) -> list[Entry]:
    """Calibration, seeds, learned parameters, their share, seconds of training, and the most memory."""
    results = [result for cell in row.cells for result in cell.results]
    if not results:
        return [Entry("")] * 6
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
        found[id(row)] += [f"{left} pictures that cannot be read were left out; each run names its own"] if left else []
        found[id(row)] += [f"{row.label}: {each}" for each in inner_differences(row.cells)]
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
