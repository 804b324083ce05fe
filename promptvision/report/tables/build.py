"""The tables of a report: mean and deviation over seeds, calibration, learned parameters, time and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from promptvision.errors import counted
from promptvision.report.cells import Cell, inner_differences
from promptvision.report.comparable import notes
from promptvision.report.kinds import TITLES, metric, places
from promptvision.report.sections import BY_DATASET, Row, Section
from promptvision.report.tables.over_shots import over_shots, shot_counts, shots_name
from promptvision.report.tables.table import Column, Entry, Table, number_entry, score_entry

ABOUT = {
    "base_to_new": "Trained on the base classes. H: harmonic mean of the means over seeds of base and of new; for the "
    "average that of the averages (CoCoOp).",
    "uda": "Columns: labelled source → unlabelled target. VisDA: mean over classes of the accuracy of each class.",
    "vtab": "Natural, Specialized and Structured: means of 7, 4 and 8 tasks; mean: of all 19.",
    "continual": "Accuracies and forgetting after the last task.",
}
DEVIATION = "Per cent: mean ± sample deviation over seeds."
MISSING = "*: some datasets are missing."
BLIND = "Grey: the method looks at no training image, so its number is the same for all shots."
AT_MOST = "ECE, parameters, seconds and memory are those with the most shots."
COSTS = ("ECE", "seeds", "learned", "% of backbone", "seconds", "memory (MB)")


def table(section: Section) -> Table:
    """Return the table of a section, with numbered notes on its rows; facts that all rows share are in its title."""
    shown = over_shots(section) or section
    several = len({row.dataset for row in section.rows}) > 1
    shots = shot_counts(section) if shown is section and section.kind != "continual" else []
    columns = [Column("method", number=False, head=True)]
    columns += [Column(BY_DATASET[section.kind], number=False, head=True)] if several else []
    columns += [Column("shots", head=True)] if len(shots) > 1 else []
    scores = [Column(name, score=True, low=name.startswith("forgetting")) for name in shown.columns]
    made = Table(title(section, shots), [*columns, *scores, *map(Column, COSTS)], [], kind=section.kind)
    noted = row_notes(shown)
    for row in shown.rows:
        entries = [Entry(" ".join([row.label, *map(made.note, noted[id(row)])]))]
        entries += [Entry(row.dataset)] if several else []
        entries += [number_entry(row.cells[0].shots if row.cells else None, "{}")] if len(shots) > 1 else []
        made.rows.append([*entries, *(score_entry(row.scores.get(name)) for name in shown.columns), *costs(row)])
    made.finish(best=not several)
    made.about = " ".join([*([ABOUT[section.kind]] if section.kind in ABOUT else []), DEVIATION])
    if any(score.missing for row in shown.rows for score in row.scores.values()):
        made.about += f" {MISSING}"
    if shown is not section:
        _mark_levels(made, shown)
    return made


def title(section: Section, shots: Sequence[int]) -> str:
    """Return `Base to new classes: world_sketches, 16 shots`."""
    datasets = {row.dataset for row in section.rows} if section.kind in BY_DATASET else set(section.columns)
    shared = list(datasets) if len(datasets) == 1 else []
    if len(shots) == 1:
        shared.append(shots_name(shots[0]))
    if not shared:
        return TITLES[section.kind]
    return f"{TITLES[section.kind]}: {', '.join(shared)}"


def _mark_levels(made: Table, shown: Section) -> None:
    """Mark the numbers of methods that look at no training image, except the best of a column, and explain it."""
    for number, row in enumerate(shown.rows):
        if row.cells[0].blind:
            scores = zip(made.columns, made.rows[number], strict=True)
            made.rows[number] = [replace(e, mark="level") if c.score and not e.mark else e for c, e in scores]
    blind = any(row.cells[0].blind for row in shown.rows)
    made.about = " ".join([made.about, *([BLIND] if blind else []), AT_MOST])


def costs(row: Row) -> list[Entry]:
    """Return ECE, seeds, learned parameters and their share, seconds and peak memory, all with the most shots."""
    most = max((cell.shots for cell in row.cells), default=0)
    results = [result for cell in row.cells if cell.shots == most for result in cell.results]
    if not results:
        return [Entry("")] * len(COSTS)
    seeds = sorted({len(cell.runs) for cell in row.cells})
    ece, learned, backbone, seconds = (
        fmean(known) if (known := _numbers(results, key)) else None
        for key in ("ece", "learned_parameters", "backbone_parameters", "seconds")
    )
    memory = [number / 2**20 for number in _numbers(results, "peak_memory_bytes") if number]
    return [
        number_entry(ece, "{:.2f}"),
        Entry("-".join(map(str, seeds if len(seeds) < 2 else [seeds[0], seeds[-1]])), seeds[0]),
        number_entry(learned, "{:,.0f}"),
        number_entry(100 * learned / backbone if learned is not None and backbone else None, "{:.2f}"),
        number_entry(seconds, "{:.1f}"),
        number_entry(max(memory, default=None), "{:,.0f}"),
    ]


def _numbers(results: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return the values of a key that are numbers."""
    return [value for result in results if isinstance(value := result.get(key), int | float)]


def row_notes(section: Section) -> dict[int, list[str]]:
    """Return {id of a row: notes on its runs and later tests}."""
    found: dict[int, dict[str, None]] = {id(row): {} for row in section.rows}
    owners, tests = dict[str, int](), defaultdict[str, dict[str, list[Mapping[str, Any]]]](dict)
    for row, cell in [(each, cell) for each in section.rows for cell in each.cells]:
        shots = f", {shots_name(cell.shots)}" if cell.shots else ""
        name = f"{row.label}, {cell.dataset}{shots}"
        owners[name], tests[""][name] = id(row), cell.results
        for where, test in places(cell, section.kind).items():
            tests[where][name] = [run.evals[test] for run in cell.runs if test in run.evals]
    for results in tests.values():
        for name, sentences in notes(results).items():
            found[owners[name]] |= dict.fromkeys(sentences)
    for row in section.rows:
        left = sum(int(sum(_numbers(cell.results, "bad_pictures"))) for cell in row.cells)
        unread = counted(left, "image that cannot be read was", "images that cannot be read were")
        said = [f"{unread} left out; each run names its own"] if left else []
        said += [sentence for cell in row.cells for sentence in _wide_seeds(section.kind, cell)]
        found[id(row)] |= dict.fromkeys([*said, *(f"within this row {each}" for each in inner_differences(row.cells))])
    return {key: list(sentences) for key, sentences in found.items()}


def _wide_seeds(kind: str, cell: Cell) -> Iterator[str]:
    """Yield a sentence for each score of a cell whose seeds differ widely."""
    shots = f" with {shots_name(cell.shots)}" if cell.shots else ""
    for where, test in {cell.dataset: None, **places(cell, kind)}.items():
        score = cell.score("accuracy" if test else metric(cell.dataset), test)
        images = _numbers([run.result if test is None else run.evals.get(test, {}) for run in cell.runs], "n")
        if score and images and score.differs_widely(int(min(images))):
            low, high = min(score.values.values()), max(score.values.values())
            yield f"seeds differ widely on {where}{shots}: {low:.2f} to {high:.2f}"
