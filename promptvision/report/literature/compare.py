"""A comparison of our numbers with the published ones: matching rows, differences and verdicts.

A difference is within the noise if it is at most half of our 95 % interval over seeds, plus the rounding of the
published number; the published rows hold no deviations. A single seed has no interval and is not judged; neither are
published rows of low confidence, and runs with other settings. Averages that lack datasets have no row.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from promptvision.report.kinds import TITLES
from promptvision.report.literature.counterparts import MEAN_OF_TASKS, Ours, numbers, rules
from promptvision.report.literature.settings import differences
from promptvision.report.scores import Score
from promptvision.report.sections import Section
from promptvision.report.tables.table import Column, Entry, Table, score_entry

COLUMNS = (
    Column("method", number=False, head=True),
    Column("dataset", number=False, head=True),
    Column("shots", head=True),
    Column("split", number=False, head=True),
    Column("published"),
    Column("ours", score=True),
    Column("difference"),
    Column("95 %"),
    Column("verdict", number=False),
    Column("paper", number=False),
    Column("confidence", number=False),
)
ABOUT = (
    "Ours: mean ± sample deviation over seeds. 95 %: half of the interval of our mean (Student's t). Within: the "
    "difference is at most that, plus the rounding of the published number. Rows of low confidence are never judged."
)
FILES = ("published", "frontier", "vit_peft")
"""CSV files of published numbers, gzipped: the methods' own papers, methods since 2023 on CLIP, rivals of VPT."""


@cache
def published() -> tuple[Mapping[str, str], ...]:
    """Return the rows of all FILES, all values as text."""
    rows: list[dict[str, str]] = []
    for name in FILES:
        with gzip.open(Path(__file__).with_name(f"{name}.csv.gz"), "rt", encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    for row in rows:  # papers call both the mean over tasks and that over images the last accuracy
        row["metric"] = MEAN_OF_TASKS if "mean over tasks of their accuracies" in row["source"] else row["metric"]
    return tuple(rows)


def compare(section: Section) -> Table | None:
    """Return the published rows that belong to numbers of this section, each with ours; None if there are none."""
    made = Table(f"{TITLES[section.kind]}, against the literature", COLUMNS, [], ABOUT, kind=section.kind)
    for ours in numbers(section):
        for row, method in counterparts(section.kind, ours):
            made.rows.append(line(section.kind, ours, row, method, made))
    return made if made.rows else None


def counterparts(kind: str, ours: Ours) -> Iterator[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """Yield the published rows of the same number, each with the rule of its method; a repeated number once."""
    first, methods = ours.cells[0].first, _methods_of(kind, ours)
    shots = {str(cell.shots) for cell in ours.cells}
    blind = any(cell.blind for cell in ours.cells)
    seen = set[tuple[str, str]]()
    for row in published() if methods else ():
        method = methods.get((row["method"], row["protocol"]))
        same = method and (row["dataset"], row["split"]) == (ours.where, ours.split) and row["metric"] in ours.metrics
        same = same and first["backbone"] in rules()["backbones"].get(row["backbone"], [])
        if method and same and (row["method"], row["value"]) not in seen:
            wanted = str(method.get("shots", row["shots"]))
            if blind or not wanted.isdigit() or shots == {wanted}:
                seen.add((row["method"], row["value"]))
                yield row, method


def _methods_of(kind: str, ours: Ours) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return {(published name, protocol of its rows): rule} of our method with these options; the last rule wins."""
    first, found = ours.cells[0].first, dict[tuple[str, str], Mapping[str, Any]]()
    for rule in rules()["methods"]:
        protocols = set(rules()["tables"].get(kind, ()))
        protocols &= set(rule.get("in", protocols))
        wanted = rule.get("options", {}).items()
        same = all(cell.first["options"].get(key) == value for cell in ours.cells for key, value in wanted)
        if same and rule["ours"] == f"{first['family']}/{first['method']}":
            found |= {(rule["published"], protocol): rule for protocol in protocols}
    return found


def line(kind: str, ours: Ours, row: Mapping[str, str], method: Mapping[str, Any], made: Table) -> list[Entry]:
    """Return one row of the table, and add notes on what differs and on what keeps it from being judged."""
    mentioned, barred = differences(kind, ours.cells, method, rules())
    noted = [made.note(f"{ours.label}: {sentence}") for sentence in [*barred, *mentioned]]
    return entries(ours, row, verdict(ours.score, row, bool(barred)), noted)


def entries(ours: Ours, row: Mapping[str, str], judged: str, noted: Sequence[str]) -> list[Entry]:
    """Return one of our numbers beside that of `row`, with the verdict and the numbers of its notes."""
    value, mean, half = float(row["value"]), ours.score.mean, ours.score.half
    shots = "" if ours.cells[0].blind else str(ours.cells[0].shots or "all")
    return [
        *(Entry(text) for text in (ours.label, ours.where, shots, ours.split)),
        Entry(row["value"], value),
        score_entry(ours.score),
        Entry("") if mean is None else Entry(f"{mean - value:+.2f}", mean - value),
        Entry("") if half is None else Entry(f"± {half:.2f}", half),
        Entry(" ".join([judged, *noted]), mark=judged if judged in ("within", "outside") else "unjudged"),
        *(Entry(row[key]) for key in ("paper", "confidence")),
    ]


def verdict(score: Score, row: Mapping[str, str], barred: bool) -> str:
    """Return `within` or `outside`, or the reason for which the difference is not judged."""
    if row["confidence"] == "low":
        return "low confidence"
    if barred or score.mean is None:
        return "not comparable"
    if score.half is None:
        return "no interval"
    decimals = len(row["value"].partition(".")[2])
    within = abs(score.mean - float(row["value"])) <= score.half + 0.5 * 10**-decimals + 1e-9
    return "within" if within else "outside"


def without_counterpart(sections: Sequence[Section]) -> list[str]:
    """Return a sentence for each backbone, and one for all datasets, that no paper has."""
    cells = [cell for section in sections for row in section.rows for cell in row.cells]
    known = {name for names in rules()["backbones"].values() for name in names}
    backbones = dict.fromkeys(cell.first["backbone"] for cell in cells if cell.first["backbone"] not in known)
    cards = {name.partition(":")[0] for names in rules()["datasets"].values() for name in names}
    datasets = dict.fromkeys(cell.dataset for cell in cells if cell.dataset not in cards)
    found = [f"Backbone {name} is in none of the papers: its numbers are not compared." for name in backbones]
    return [*found, *([f"In none of the papers: {', '.join(datasets)}."] if datasets else [])]
