"""Our numbers beside the published ones: which belong together, how far apart they are, and whether that says anything.

A difference is within the noise if it is at most half of our 95 % interval over seeds, plus what rounding hides in the
published number; published.csv holds no deviations. One seed has no interval, so it is not judged; neither are
published rows of low confidence, and runs that were set to something else. Averages that lack data sets have no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas

from promptvision.report.cells import Cell
from promptvision.report.comparable import ON_TEST
from promptvision.report.kinds import TITLES
from promptvision.report.literature.counterparts import Ours, numbers, rules
from promptvision.report.literature.settings import differences
from promptvision.report.scores import Score
from promptvision.report.sections import Section
from promptvision.report.tables.table import Column, Entry, Table

COLUMNS = (
    Column("method", number=False, head=True),
    Column("data set", number=False, head=True),
    Column("shots", head=True),
    Column("split", number=False, head=True),
    Column("published"),
    Column("ours", score=True),
    Column("difference"),
    Column("verdict", number=False),
    Column("paper", number=False),
    Column("confidence", number=False),
)
ABOUT = (
    "Within: the difference is at most half of our 95 % interval over seeds (± of ours), plus the rounding of the "
    "published number. Rows of low confidence are shown and never judged."
)


@cache
def published() -> tuple[Mapping[str, str], ...]:
    """The rows of published.csv, all as text."""
    path = Path(__file__).with_name("published.csv")
    return tuple(pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"))


def compare(section: Section) -> Table | None:
    """The published rows that belong to numbers of this section, each beside ours; None if there are none."""
    made = Table(f"{TITLES[section.kind]}, against the literature", COLUMNS, [], ABOUT, kind=section.kind)
    for ours in numbers(section):
        for row, method in _matches(section.kind, ours):
            made.rows.append(_line(section.kind, ours, row, method, made))
    return made if made.rows else None


def _matches(kind: str, ours: Ours) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The published rows of the same number, each with the rule of its method; a number that papers repeat once."""
    result = ours.cells[0].first
    name = f"{result['family']}/{result['method']}"
    methods = {m["published"]: m for m in _methods(kind, name) if _is_that(m, ours.cells)}
    seen = set[tuple[str, str]]()
    for row in published() if methods else ():
        method = methods.get(row["method"])
        same = (row["dataset"], row["split"]) == (ours.where, ours.split) and row["metric"] in ours.metrics
        if method and same and row["protocol"] in method.get("in", rules()["tables"][kind]):
            here, told = rules()["backbones"].get(row["backbone"], []), (row["method"], row["value"])
            if result["backbone"] in here and told not in seen and _same_shots(row["shots"], ours):
                seen.add(told)
                yield row, method


def _methods(kind: str, name: str) -> Iterator[Mapping[str, Any]]:
    protocols = set(rules()["tables"].get(kind, []))
    for method in rules()["methods"]:
        if method["ours"] == name and protocols & set(method.get("in", protocols)):
            yield method


def _is_that(method: Mapping[str, Any], cells: Sequence[Cell]) -> bool:
    wanted = method.get("options", {}).items()
    return all(cell.first["options"].get(key) == value for cell in cells for key, value in wanted)


def _same_shots(published_shots: str, ours: Ours) -> bool:
    counted = published_shots.isdigit() and not any(cell.blind for cell in ours.cells)
    return not counted or {str(cell.shots) for cell in ours.cells} == {published_shots}


def _line(kind: str, ours: Ours, row: Mapping[str, str], method: Mapping[str, Any], made: Table) -> list[Entry]:
    """One row of the table; what keeps it from being judged is noted below it."""
    told, barred = differences(kind, ours.cells, method, rules())
    also_there = rules()["settings"][method["settings"]].get("DATASET.VALIDATION") == "test"
    barred += [ON_TEST] if not also_there and any(_on_test(cell) for cell in ours.cells) else []
    numbers = " ".join(made.note(f"{ours.label}: {sentence}") for sentence in [*barred, *told])
    value, mean = float(row["value"]), ours.score.mean
    shots = "" if ours.cells[0].blind else str(ours.cells[0].shots or "all")
    verdict, mark = _verdict(ours.score, row, bool(barred))
    return [
        *(Entry(text) for text in (ours.label, ours.where, shots, ours.split)),
        Entry(row["value"], value),
        Entry(str(ours.score), mean, ours.score.half),
        Entry("") if mean is None else Entry(f"{mean - value:+.2f}", mean - value),
        Entry(f"{verdict} {numbers}".strip(), mark=mark),
        *(Entry(row[key]) for key in ("paper", "confidence")),
    ]


def _on_test(cell: Cell) -> bool:
    return (cell.first.get("protocol") or {}).get("VALIDATION") == "test"


def _verdict(score: Score, row: Mapping[str, str], barred: bool) -> tuple[str, str]:
    """(what the table says, its mark)"""
    if row["confidence"] == "low":
        return "low confidence", "unjudged"
    if barred or score.mean is None:
        return "not comparable", "unjudged"
    if score.half is None:
        return "no interval", "unjudged"
    decimals = len(row["value"].partition(".")[2])
    within = abs(score.mean - float(row["value"])) <= score.half + 0.5 * 10**-decimals + 1e-9
    return ("within", "within") if within else ("outside", "outside")


def without_counterpart(sections: Sequence[Section]) -> list[str]:
    """A sentence for each backbone, and one for all data sets, that no paper has."""
    cells = [cell for section in sections for row in section.rows for cell in row.cells]
    known = {name for names in rules()["backbones"].values() for name in names}
    backbones = dict.fromkeys(cell.first["backbone"] for cell in cells if cell.first["backbone"] not in known)
    cards = {name.partition(":")[0] for names in rules()["datasets"].values() for name in names}
    datasets = dict.fromkeys(cell.dataset for cell in cells if cell.dataset not in cards)
    found = [f"Backbone {name} is in none of the papers: its numbers are not compared." for name in backbones]
    return [*found, *([f"In none of the papers: {', '.join(datasets)}."] if datasets else [])]
