"""The numbers that figures are made of, and their words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from promptvision.report.figures.dots import Values, ranked
from promptvision.report.scores import Score
from promptvision.report.sections import Row, Section


def whole(score: Score) -> bool:
    """Whether it may stand beside others: a mean that lacks no data set."""
    return score.mean is not None and not score.missing


def datasets(section: Section) -> list[str]:
    """What its rows are of, each with figures of its own; [""] where the data sets are columns."""
    return list(dict.fromkeys(row.dataset for row in section.rows))


def most_shots(section: Section, dataset: str) -> list[Row]:
    """Of the rows of each method on a data set, or of an average, the one with the most shots."""
    best: dict[str, Row] = {}
    for row in (row for row in section.rows if row.dataset == dataset):
        other = best.setdefault(row.label, row)
        if row.cells and row.cells[0].shots > other.cells[0].shots:
            best[row.label] = row
    return list(best.values())


def values(rows: Iterable[Row], columns: Sequence[str]) -> dict[str, dict[str, Score]]:
    """{method: {column: score}}, only scores that may stand beside others, only methods that have one."""
    found = {row.label: {c: row.scores[c] for c in columns if c in row.scores and whole(row.scores[c])} for row in rows}
    return {label: scores for label, scores in found.items() if scores}


def zero_shot(section: Section) -> str:
    """The label of its zero-shot row; empty if there is none."""
    return next((row.label for row in section.rows if _is_zero_shot(row)), "")


def _is_zero_shot(row: Row) -> bool:
    return bool(row.cells) and row.cells[0].first["method"] == "zero_shot"


def means(scores: Mapping[str, Score]) -> dict[str, float]:
    """Without intervals."""
    return {column: score.mean or 0.0 for column, score in scores.items()}


def differences(found: Values, label: str) -> dict[str, dict[str, float]]:
    """{method: {column: its mean minus that of `label`}} of all other methods."""
    level = means(found.get(label, {}))
    others = {name: means(scores) for name, scores in found.items() if name != label}
    apart = {name: {c: value - level[c] for c, value in each.items() if c in level} for name, each in others.items()}
    return {name: each for name, each in apart.items() if each}


def in_words(found: Values, column: str, level: str = "", most: int = 3) -> str:
    """`Highest at 16 shots: CoOp 61.2, MaPLe 60.1; zero-shot CLIP 45.0.`"""
    there = {name: scores for name, scores in found.items() if column in scores}
    names = [name for name in ranked(there, [column]) if name != level][:most]
    told = ", ".join(f"{name} {there[name][column].mean:.1f}" for name in names)
    return f"Highest, {column}: {told}" + (f"; {level} {there[level][column].mean:.1f}." if level in there else ".")
