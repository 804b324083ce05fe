"""Our numbers under the names that papers give to their datasets, splits and metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from promptvision.report.cells import Cell
from promptvision.report.kinds import metric
from promptvision.report.scores import Score, average
from promptvision.report.sections import SOURCE, Row, Section, base_new_h

TOP1 = "top-1 acc %"
MEAN_OF_TASKS = "last accuracy %, mean of tasks"
OF_STREAMS = {
    "average accuracy": ("average accuracy %", MEAN_OF_TASKS),
    "accuracy over all images": ("last accuracy %",),
    "accuracy over the stream": ("average of accuracies after each task %",),
    "forgetting, official formula": ("forgetting %",),
}
"""Our measures of a stream, and what papers call them."""


@dataclass(frozen=True)
class Ours:
    """One number of a section: its cells, and `where` (dataset or average), `split`, `metrics` as papers call them."""

    label: str
    cells: Sequence[Cell]
    where: str
    split: str
    metrics: Sequence[str]
    score: Score


@cache
def rules() -> dict[str, Any]:
    """Return the contents of literature.yaml."""
    return yaml.safe_load(Path(__file__).with_name("literature.yaml").read_text(encoding="utf-8"))


def numbers(section: Section) -> Iterator[Ours]:
    """Yield every number of a section that a paper could have, with the averages that papers give."""
    kind, names, rows = section.kind, dict[str, str](), defaultdict[str, list[Row]](list)
    for kinds, found in rules()["datasets"].items():
        names |= found if kind in kinds.split() else {}
    for row in section.rows:
        rows[row.label].append(row)
        for column, score in row.scores.items() if row.cells else ():
            where, split, metrics = published_names(kind, row, column)
            own = [cell for cell in row.cells if column.partition(":")[0] == cell.dataset]
            cells = own if own and kind in ("few_shot", "vtab", "fgvc") else row.cells
            tasks = [f"{where}: {len(row.cells[0].first['tasks'])} tasks"] if kind == "continual" else []
            for place in [where, *tasks] if metrics and not score.missing else []:
                if place in names:
                    yield Ours(row.label, cells, names[place], split, metrics, score)
    for name, members in rules()["averages"].get(kind, {}).items():
        for label, each in rows.items():
            if kind == "base_to_new":
                yield from averages_to_new(label, each, name, members)
            else:
                yield from averages(kind, label, each, name, members)


def published_names(kind: str, row: Row, column: str) -> tuple[str, str, list[str]]:
    """Return card or average, split, and metrics as published of one column; no metrics if no paper has it."""
    if kind == "base_to_new":
        return row.dataset, column, ["harmonic mean %" if column == "H" else TOP1]
    if kind in ("cross_dataset", "domain_generalization"):
        return (row.dataset, "source", [TOP1]) if column == SOURCE else (column, "target", [TOP1])
    if kind == "continual":
        return row.dataset, "all tasks", list(OF_STREAMS.get(column, ()))
    per_class = metric(column.partition(":")[0]) == "per_class_mean"
    split = {"few_shot": "all", "uda": "target"}.get(kind, "test")
    return column, split, ["mean class acc %" if per_class else TOP1]


def averages(kind: str, label: str, rows: Sequence[Row], name: str, members: Sequence[str]) -> Iterator[Ours]:
    """Yield the average of each row over exactly `members`, if it has all of them."""
    for row in rows:
        score = average([row.scores[each] for each in members if each in row.scores], len(members))
        if score and not score.missing:
            yield Ours(label, row.cells, name, "all" if kind == "few_shot" else "target", [TOP1], score)


def averages_to_new(label: str, rows: Sequence[Row], name: str, members: Sequence[str]) -> Iterator[Ours]:
    """Yield the averages of base, new and H over exactly `members`, if all of them have both."""
    by_dataset = {row.dataset: row for row in rows if row.cells and row.scores.keys() >= {"base", "new"}}
    if by_dataset.keys() >= set(members):
        found = [by_dataset[each] for each in members]
        cells = [cell for row in found for cell in row.cells]
        base, new = (average([row.scores[key] for row in found], len(members)) for key in ("base", "new"))
        for split, score in base_new_h(base, new).items():
            metrics = [TOP1] if split != "H" else ["harmonic mean of averages %", "harmonic mean %"]
            yield Ours(label, cells, name, split, metrics, score)
