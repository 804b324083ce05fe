"""The numbers of a report: one section per protocol, with averages as the papers take them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptvision.report.cells import Cell, labels
from promptvision.report.kinds import COOP, FGVC, MEASURES, TITLES, VTAB, kinds, metric, places
from promptvision.report.names import method_order
from promptvision.report.scores import Score, average, harmonic

BY_DATASET = {
    "base_to_new": "data set",
    "continual": "data set",
    "cross_dataset": "source",
    "domain_generalization": "source",
}
"""Kinds of table whose rows are of one data set each: what the column of its name is called."""
SOURCE = "on source"


@dataclass
class Row:
    """One line: what it is called, the cells it is made of, and its scores by column."""

    label: str
    cells: list[Cell]
    scores: dict[str, Score] = field(default_factory=dict)
    dataset: str = ""


@dataclass
class Section:
    """The rows of one protocol, with all columns that any has, for its table and figures."""

    kind: str
    rows: list[Row]
    columns: list[str]


def sections(found: Sequence[Cell]) -> list[Section]:
    """One for each kind of table that there is something for; tests on other images than test ones are in none."""
    tested = [cell for cell in found if cell.first.get("split", "test") == "test"]
    made = [_section(kind, [cell for cell in tested if kind in kinds(cell)]) for kind in TITLES]
    return [section for section in made if section.rows]


def _section(kind: str, found: Sequence[Cell]) -> Section:
    rows: dict[tuple[str, str, int], Row] = {}
    for cell, label in zip(found, labels(found), strict=True):
        dataset = cell.dataset if kind in BY_DATASET else ""
        row = rows.setdefault((label, dataset, cell.shots), Row(label, [], dataset=dataset))
        row.cells.append(cell)
        row.scores |= {name: score for name, score in _scores(kind, cell).items() if score}
    names = list(dict.fromkeys(row.label for row in rows.values()))
    ordered = sorted(rows.values(), key=lambda row: (_method_order(row), names.index(row.label), row.cells[0].shots))
    columns = _ordered(dict.fromkeys(name for row in ordered for name in row.scores))
    if kind == "base_to_new":
        return Section(kind, [*ordered, *_averages_to_new(ordered)], columns)
    averages: dict[str, None] = {}
    for row in ordered:
        peers = {name for each in ordered if each.dataset == row.dataset for name in each.scores}
        groups = _groups(kind, [name for name in columns if name in peers])
        averages |= dict.fromkeys(groups)
        means = {k: average((row.scores[n] for n in of if n in row.scores), len(of)) for k, of in groups.items()}
        row.scores |= {name: mean for name, mean in means.items() if mean}
    return Section(kind, ordered, [*columns, *averages])


def _method_order(row: Row) -> int:
    return method_order(row.cells[0].first)


def _scores(kind: str, cell: Cell) -> dict[str, Score | None]:
    """Column -> score of one cell."""
    if kind == "base_to_new":
        base, new = cell.score(), cell.eval_score(places(cell, kind).get("new", ""))
        return {"base": base, "new": new, "H": harmonic(base, new) if base and new else None}
    if kind == "continual":
        return {name: cell.score(key) for key, name in MEASURES.items()}
    if kind in ("cross_dataset", "domain_generalization"):
        tests = {where: cell.eval_score(name) for where, name in places(cell, kind).items()}
        return {SOURCE: cell.score(), **tests}
    if kind == "uda":
        protocol = cell.first.get("protocol") or {}
        pair = f"{protocol.get('SOURCE') or 'all'} → {protocol.get('TARGET') or 'all'}"
        return {f"{cell.dataset}: {pair}": cell.score(metric(cell.dataset))}
    return {cell.dataset: cell.score(metric(cell.dataset))}


def _ordered(columns: Mapping[str, Any]) -> list[str]:
    """The papers' data sets in the papers' order, then the others as they come; a transfer's source first."""
    known = [*COOP, *(f"vtab_{name}" for group in VTAB.values() for name in group), *FGVC]
    place = {name: number for number, name in enumerate(known)}
    return sorted(columns, key=lambda name: (name != SOURCE, place.get(name, len(place))))


def _groups(kind: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """{name of an average: the columns it is over}"""
    if kind == "continual":
        return {}
    if kind == "vtab":
        means = {name: [f"vtab_{task}" for task in tasks] for name, tasks in VTAB.items()}
        return {**means, "mean": [task for tasks in means.values() for task in tasks]}
    over = list(FGVC) if kind == "fgvc" else [name for name in columns if name != SOURCE]
    datasets = {name.partition(":")[0] for name in over}
    if kind == "uda" and len(datasets) > 1:
        return {f"{each} average": [name for name in over if name.startswith(f"{each}:")] for each in sorted(datasets)}
    return {"average": over} if len(over) > 1 else {}


def _averages_to_new(rows: Sequence[Row]) -> list[Row]:
    """A row over all data sets for each method, where there are several."""
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    count = len({row.dataset for row in rows})
    return [_average_to_new(label, each, count) for label, each in by_label.items()] if count > 1 else []


def _average_to_new(label: str, rows: Sequence[Row], count: int) -> Row:
    both = [row for row in rows if row.scores.keys() >= {"base", "new"}]
    base = average((row.scores["base"] for row in both or rows if "base" in row.scores), count)
    new = average((row.scores["new"] for row in both), count)
    scores = {"base": base, "new": new, "H": harmonic(base, new) if base and new else None}
    found = {name: score for name, score in scores.items() if score}
    return Row(label, [], found, dataset=f"average of {count}")
