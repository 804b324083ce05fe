"""Few-shot results by the number of shots."""

from __future__ import annotations

from promptvision.errors import counted
from promptvision.report.scores import Score
from promptvision.report.sections import Row, Section


def shot_counts(section: Section) -> list[int]:
    """Return the numbers of shots that methods were trained with, in order."""
    return sorted({row.cells[0].shots for row in section.rows if row.cells} - {0})


def by_shots(section: Section, column: str) -> dict[str, dict[int, Score]]:
    """Return {method: {shots: score}}; a method that looks at no training image has one score for all of them."""
    counts, found = shot_counts(section), dict[str, dict[int, Score]]()
    for row in section.rows:
        if column in row.scores:
            shots = row.cells[0].shots
            same = [shots] if shots else counts
            found.setdefault(row.label, {}).update(dict.fromkeys(same, row.scores[column]))
    return found


def over_shots(section: Section) -> Section | None:
    """Return the section with one row per method and a column for each number of shots; None if it has several datasets
    or a single number of shots."""
    counts = shot_counts(section)
    if section.kind != "few_shot" or len(section.columns) != 1 or len(counts) < 2:
        return None
    scores, rows = by_shots(section, section.columns[0]), dict[str, Row]()
    for row in section.rows:
        named = {shots_name(shots): score for shots, score in scores.get(row.label, {}).items()}
        rows.setdefault(row.label, Row(row.label, [], named)).cells.extend(row.cells)
    return Section(section.kind, list(rows.values()), [shots_name(shots) for shots in counts])


def shots_name(shots: int) -> str:
    """Return `1 shot`, `16 shots`."""
    return counted(shots, "shot")
