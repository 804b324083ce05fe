"""Our numbers under the names that the papers give to their data sets, splits and metrics."""

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
from promptvision.report.scores import Score, average, harmonic
from promptvision.report.sections import SOURCE, Row, Section

TOP1 = "top-1 acc %"


@dataclass(frozen=True)
class Ours:
    """One number of a section: `where` and `split` as the papers call them, and the cells it was made of."""

    label: str
    cells: Sequence[Cell]
    where: str
    split: str
    metrics: Sequence[str]
    score: Score


@cache
def rules() -> dict[str, Any]:
    """literature.yaml."""
    return yaml.safe_load(Path(__file__).with_name("literature.yaml").read_text(encoding="utf-8"))


def numbers(section: Section) -> Iterator[Ours]:
    """Every number of a section that a paper could have, with the averages that the papers give."""
    names: dict[str, str] = next(
        (names for kinds, names in rules()["datasets"].items() if section.kind in kinds.split()), {}
    )
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in section.rows:
        rows[row.label].append(row)
        for column, score in row.scores.items() if row.cells else ():
            for where, split, metrics in _told(section.kind, row, column):
                if where in names and not score.missing:
                    yield Ours(row.label, _cells(section.kind, row, column), names[where], split, metrics, score)
    for name, members in rules()["averages"].get(section.kind, {}).items():
        for label, each in rows.items():
            yield from _averages(section.kind, label, each, name, members)


def _cells(kind: str, row: Row, column: str) -> list[Cell]:
    """Those that a column's number was made of: one, or for an average all."""
    own = [cell for cell in row.cells if column.partition(":")[0] == cell.dataset]
    return own if own and kind in ("few_shot", "vtab", "fgvc") else row.cells


def _told(kind: str, row: Row, column: str) -> list[tuple[str, str, list[str]]]:
    """(card or average, split, metrics as published) of one column."""
    if kind == "base_to_new":
        return [(row.dataset, column, ["harmonic mean %" if column == "H" else TOP1])]
    if kind in ("cross_dataset", "domain_generalization"):
        return [(row.dataset, "source", [TOP1])] if column == SOURCE else [(column, "target", [TOP1])]
    if kind == "continual":
        known = {"average accuracy": "average accuracy %", "forgetting, official formula": "forgetting %"}
        return [(row.dataset, "all tasks", [known[column]])] if column in known else []
    per_class = metric(column.partition(":")[0]) == "per_class_mean"
    split = {"few_shot": "all", "uda": "target"}.get(kind, "test")
    return [(column, split, ["mean class acc %" if per_class else TOP1])]


def _averages(kind: str, label: str, rows: Sequence[Row], name: str, members: Sequence[str]) -> Iterator[Ours]:
    """The average over exactly `members`, where all are there."""
    if kind == "base_to_new":
        by_dataset = {row.dataset: row for row in rows if row.cells and row.scores.keys() >= {"base", "new"}}
        if by_dataset.keys() >= set(members):
            cells = [cell for each in members for cell in by_dataset[each].cells]
            base, new = (average([by_dataset[n].scores[k] for n in members], len(members)) for k in ("base", "new"))
            both = {"base": base, "new": new, "H": harmonic(base, new) if base and new else None}
            for split, score in both.items():
                metrics = [TOP1] if split != "H" else ["harmonic mean of averages %", "harmonic mean %"]
                yield from [Ours(label, cells, name, split, metrics, score)] if score else []
        return
    for row in rows:
        score = average([row.scores[each] for each in members if each in row.scores], len(members))
        if score and not score.missing:
            yield Ours(label, row.cells, name, "all" if kind == "few_shot" else "target", [TOP1], score)
