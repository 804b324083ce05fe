"""Rankings of methods: runs on the embedded world against published means over 11 datasets (rankings.yaml)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from promptvision.errors import InputError, counted
from promptvision.report.cells import cells
from promptvision.report.collect import collect
from promptvision.report.literature.correlation import Correlation, correlate
from promptvision.report.literature.counterparts import averages, averages_to_new
from promptvision.report.names import method_name
from promptvision.report.scores import Score
from promptvision.report.sections import Row, sections

EMBEDDED = "world_"
"""Beginning of the names of the embedded datasets."""
SHOTS = 16


@dataclass(frozen=True)
class Published:
    """An entry of rankings.yaml: `name` and `options` of our runs, the `value` in per cent, and its source."""

    name: str
    value: float
    published: str
    paper: str
    protocol: str
    confidence: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def is_of(self, row: Row) -> bool:
        """Return whether a row of a section has the runs that stand for this method."""
        first = row.cells[0].first
        return method_name(first) == self.name and self.options.items() <= first["options"].items()


@dataclass(frozen=True)
class Point:
    """One method: its published number, its embedded mean, and whether the embedded world was designed with it."""

    published: Published
    embedded: Score
    looked_at: bool


@dataclass(frozen=True)
class Ranking:
    """The methods that have both numbers of one `kind` (`base_to_new`, `few_shot`), the highest published one first.

    `tasks` are the embedded datasets that the means are over; `remarks` say what was left out.
    """

    kind: str
    points: Sequence[Point]
    tasks: Sequence[str]
    remarks: Sequence[str]

    def correlation(self, tested: bool) -> Correlation:
        """Return the rank correlation over all methods, or over the `tested` ones, which were not looked at."""
        kept = [point for point in self.points if not (tested and point.looked_at)]
        return correlate([p.published.value for p in kept], [p.embedded.mean or 0.0 for p in kept])


@cache
def literature() -> dict[str, Any]:
    """Return the contents of rankings.yaml, its methods as Published."""
    found = yaml.safe_load(Path(__file__).with_name("rankings.yaml").read_text(encoding="utf-8"))
    kinds = {kind: each for kind, each in found.items() if kind != "looked_at"}
    return {**found, **{k: {**each, "methods": [Published(**m) for m in each["methods"]]} for k, each in kinds.items()}}


def load_ranking(folder: str | Path, kind: str) -> Ranking:
    """Match the runs of one kind on embedded datasets below `folder` with the published numbers.

    Raise InputError if no method has both numbers.
    """
    runs, problems = collect(folder)
    found, repeated = cells([run for run in runs if str(run.result["dataset"]).startswith(EMBEDDED)])
    rows = defaultdict[str, list[Row]](list)
    for row in (row for section in sections(found) if section.kind == kind for row in section.rows):
        first = row.cells[0] if row.cells else None
        if first and (first.blind or first.shots == SHOTS or first.settings.get("DATASET.TRAIN_CLASSES") == "all"):
            rows[row.label].append(row)
    title = literature()[kind]["title"]
    if not rows:
        raise InputError(f"{title}: {folder} holds no runs with {SHOTS} shots on embedded datasets ({EMBEDDED}*)")
    matched, unmatched = match(kind, rows)
    points, tasks, incomplete = compared(kind, rows, matched)
    if not points:
        raise InputError(f"{title}: no method in {folder} has both a published number and results on a dataset")
    remarks = [f"{title}: {sentence}" for sentence in [*unmatched, *incomplete]]
    return Ranking(kind, points, tasks, [*problems, *repeated, *remarks])


def match(kind: str, rows: Mapping[str, Sequence[Row]]) -> tuple[dict[Published, str], list[str]]:
    """Return {published number: label of its only row}, and a sentence for each number and row without a match."""
    matched, remarks, known = dict[Published, str](), list[str](), set[str]()
    for entry in literature()[kind]["methods"]:
        labels = [label for label, each in rows.items() if entry.is_of(each[0])]
        known.update(labels)
        if len(labels) == 1:
            matched[entry] = labels[0]
        elif labels:
            remarks.append(f"{entry.name} is left out: it has {counted(len(labels), 'row')}: {'; '.join(labels)}")
        else:
            remarks.append(f"{entry.name} is left out: it has a published number and no runs here")
    unpublished = [label for label in rows if label not in known]
    return matched, [*remarks, *(f"{label} is left out: it has no published number" for label in unpublished)]


def compared(
    kind: str, rows: Mapping[str, Sequence[Row]], matched: Mapping[Published, str]
) -> tuple[list[Point], list[str], list[str]]:
    """Return the points, the tasks that their means are over, and a sentence for each task or method left out.

    A task counts if more than half of the methods have it; a method counts if it has all of these.
    """
    had = {entry: [task for row in rows[label] for task in tasks_of(kind, row)] for entry, label in matched.items()}
    numbers = Counter(task for each in had.values() for task in each)
    tasks = sorted(task for task, number in numbers.items() if 2 * number > len(had))
    rare, total = sorted(set(numbers) - set(tasks)), counted(len(had), "method")
    remarks = [f"{task} is left out: it has results of {numbers[task]} of {total}" for task in rare]
    points = []
    for entry, label in sorted(matched.items(), key=lambda item: -item[0].value):
        if lacking := [task for task in tasks if task not in had[entry]]:
            remarks.append(f"{entry.name} is left out: it lacks {', '.join(lacking)}")
        elif tasks:
            looked_at = rows[label][0].cells[0].first["method"] in literature()["looked_at"]
            points.append(Point(entry, embedded_mean(kind, rows[label], tasks), looked_at))
    return points, tasks, remarks


def tasks_of(kind: str, row: Row) -> list[str]:
    """Return the datasets of a row with a mean over seeds: of base and of new classes, or of all."""
    if kind == "base_to_new":
        both = [row.scores[key].mean for key in ("base", "new") if key in row.scores]
        return [row.dataset] if len(both) == 2 and None not in both else []
    return [name for name, score in row.scores.items() if name.startswith(EMBEDDED) and score.mean is not None]


def embedded_mean(kind: str, rows: Sequence[Row], tasks: Sequence[str]) -> Score:
    """Return H of the means of base and new over `tasks`, or the mean accuracy, of one method that has all of them."""
    to_new = kind == "base_to_new"
    found = averages_to_new("", rows, "", tasks) if to_new else averages(kind, "", rows, "", tasks)
    return next(ours.score for ours in found if ours.split in ("H", "all"))
