"""Few-shot results by the number of shots."""

from __future__ import annotations

from collections import defaultdict

from promptvision.report.scores import Score
from promptvision.report.sections import Row, Section


def shot_counts(section: Section) -> list[int]:
    """The numbers of shots that methods were trained with, in order."""
    return sorted({row.cells[0].shots for row in section.rows if row.cells} - {0})


def by_shots(section: Section, column: str) -> dict[str, dict[int, Score]]:
    """{method: {shots: score}}; one that looks at no training image has the same score at every number of shots."""
    counts, found = shot_counts(section), dict[str, dict[int, Score]]()
    for row in section.rows:
        if column in row.scores:
            shots = row.cells[0].shots
            found.setdefault(row.label, {}).update({k: row.scores[column] for k in counts if shots in (0, k)})
    return found


def over_shots(section: Section) -> Section | None:
    """The section with one row per method and a column for each number of shots; None where it has several data sets
    or a single number of shots."""
    counts = shot_counts(section)
    if section.kind != "few_shot" or len(section.columns) != 1 or len(counts) < 2:
        return None
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in section.rows:
        by_label[row.label].append(row)
    scores = by_shots(section, section.columns[0])
    rows = [
        Row(label, [c for row in rows for c in row.cells], {shots_name(k): s for k, s in scores.get(label, {}).items()})
        for label, rows in by_label.items()
    ]
    return Section(section.kind, rows, [shots_name(k) for k in counts])


def shots_name(shots: int) -> str:
    """`1 shot`, `16 shots`"""
    return f"{shots} shot{'s' * (shots != 1)}"
