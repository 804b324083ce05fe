"""Sections of a report, one per protocol: rows of scores, with averages as the papers take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptvision.report.cells import Cell, labels
from promptvision.report.kinds import AGAIN, COOP, FGVC, MEASURES, TITLES, VTAB, kinds, metric, places
from promptvision.report.names import method_order
from promptvision.report.scores import Score, average, harmonic

BY_DATASET = {"base_to_new": "dataset", "continual": "dataset"}
BY_DATASET |= {"cross_dataset": "source", "domain_generalization": "source"}
"""Kinds of table whose rows are of one dataset each -> column of its name."""
SOURCE = "on source"
GROUPS = "mean of groups"
"""VTAB's mean of the means of its three groups; papers give it or the mean of all tasks, 2 to 3 points lower."""


@dataclass
class Row:
    """One line of a table: its name, its cells, and its scores by column."""

    label: str
    cells: list[Cell]
    scores: dict[str, Score] = field(default_factory=dict)
    dataset: str = ""


@dataclass
class Section:
    """The rows of one protocol, with the columns of all of them, for its tables and figures."""

    kind: str
    rows: list[Row]
    columns: list[str]


def sections(found: Sequence[Cell]) -> list[Section]:
    """Return a section for each kind of table that has cells; runs not tested on test images belong to none."""
    tested = [cell for cell in found if cell.first.get("split", "test") == "test"]
    made = [section(kind, [cell for cell in tested if kind in kinds(cell)]) for kind in TITLES]
    return [each for each in made if each.rows]


def section(kind: str, found: Sequence[Cell]) -> Section:
    """Put cells with the same label, dataset and shots into one row, in the order of the literature."""
    rows: dict[tuple[str, str, int], Row] = {}
    for cell, label in zip(found, labels(found), strict=True):
        dataset = cell.dataset if kind in BY_DATASET else ""
        row = rows.setdefault((label, dataset, cell.shots), Row(label, [], dataset=dataset))
        row.cells.append(cell)
        row.scores |= cell_scores(kind, cell)
    names = list(dict.fromkeys(row.label for row in rows.values()))
    ordered = sorted(rows.values(), key=lambda row: (names.index(row.label), row.cells[0].shots))
    ordered.sort(key=lambda row: method_order(row.cells[0].first))  # stable: the order above within a method
    known = [SOURCE, *COOP, *(f"vtab_{name}" for group in VTAB.values() for name in group), *FGVC]
    place = {name: number for number, name in enumerate(known)}  # the papers' datasets in the papers' order
    names = list(dict.fromkeys(name for row in ordered for name in row.scores))
    columns = sorted(names, key=lambda name: place.get(name, len(place)))
    if kind == "base_to_new":
        return Section(kind, [*ordered, *_averages_to_new(ordered)], columns)
    return Section(kind, ordered, [*columns, *_add_averages(kind, ordered, columns)])


def cell_scores(kind: str, cell: Cell) -> dict[str, Score]:
    """Return {column: score} of one cell."""
    if kind == "base_to_new":
        tests = {where: cell.score(test=name) for where, name in places(cell, kind).items()}
        found = {**base_new_h(cell.score(), tests.pop("new", None)), **tests}
    elif kind == "continual":
        found = {name: cell.score(key) for key, name in MEASURES.items()}
    elif kind in ("cross_dataset", "domain_generalization"):
        found = {SOURCE: cell.score(), **{where: cell.score(test=name) for where, name in places(cell, kind).items()}}
    elif kind == "uda":
        protocol = cell.first.get("protocol") or {}
        pair = f"{protocol.get('SOURCE') or 'all'} → {protocol.get('TARGET') or 'all'}"
        found = {f"{cell.dataset}: {pair}": cell.score(metric(cell.dataset))}
    else:
        found = {cell.dataset: cell.score(metric(cell.dataset))}
    return {name: score for name, score in found.items() if score}


def base_new_h(base: Score | None, new: Score | None) -> dict[str, Score]:
    """Return the scores of base and new that are known, and H if both are."""
    found = {"base": base, "new": new, "H": harmonic(base, new) if base and new else None}
    return {name: score for name, score in found.items() if score}


def _add_averages(kind: str, rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Add averages over columns to the scores of each row, and return the names of the averages."""
    added: dict[str, None] = {}
    for row in rows:
        peers = {name for each in rows if each.dataset == row.dataset for name in each.scores}
        for name, members in _averaged_columns(kind, [name for name in columns if name in peers]).items():
            added[name] = None
            score = average((row.scores[each] for each in members if each in row.scores), len(members))
            if score:
                row.scores[name] = score
    return list(added)


def _averaged_columns(kind: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return {name of an average: the columns it is over}."""
    if kind == "continual":
        return {}
    if kind == "vtab":
        groups = {name: [f"vtab_{task}" for task in tasks] for name, tasks in VTAB.items()}
        return {**groups, "mean": [task for tasks in groups.values() for task in tasks], GROUPS: list(VTAB)}
    over = list(FGVC) if kind == "fgvc" else [name for name in columns if name != SOURCE and AGAIN not in name]
    datasets = {name.partition(":")[0] for name in over}
    if kind == "uda" and len(datasets) > 1:
        return {f"{each} average": [name for name in over if name.startswith(f"{each}:")] for each in sorted(datasets)}
    return {"average": over} if len(over) > 1 else {}


def _averages_to_new(rows: Sequence[Row]) -> list[Row]:
    """Return a row per method with its averages over datasets, if there are several datasets."""
    count = len({row.dataset for row in rows})
    made = []
    for label in dict.fromkeys(row.label for row in rows) if count > 1 else ():
        own = [row for row in rows if row.label == label]
        both = [row for row in own if row.scores.keys() >= {"base", "new"}]
        base = average((row.scores["base"] for row in both or own if "base" in row.scores), count)
        new = average((row.scores["new"] for row in both), count)
        made.append(Row(label, [], base_new_h(base, new), f"average of {count}"))
    return made
