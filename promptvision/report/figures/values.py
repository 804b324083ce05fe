"""Numbers that figures are made of, and their titles and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptvision.report.kinds import TITLES
from promptvision.report.scores import Score
from promptvision.report.sections import Row, Section


@dataclass(frozen=True)
class Mean:
    """A complete mean, and half of its 95 % interval (0 if unknown)."""

    mean: float
    half: float = 0.0


Values = Mapping[str, Mapping[str, Mean]]
"""{method: {column: mean}}"""


def is_complete(score: Score) -> bool:
    """Return whether the score can be compared with others: a mean that lacks no dataset."""
    return score.mean is not None and not score.missing


def complete(scores: Mapping[str, Score]) -> dict[str, Mean]:
    """Return the means of the complete scores."""
    found = {name: score for name, score in scores.items() if is_complete(score)}
    return {name: Mean(score.mean or 0.0, min(score.half or 0.0, 100.0)) for name, score in found.items()}


def datasets(section: Section) -> list[str]:
    """Return the datasets that have rows, and so figures, of their own; [""] if datasets are columns."""
    return list(dict.fromkeys(row.dataset for row in section.rows))


def values(section: Section, dataset: str) -> dict[str, dict[str, Mean]]:
    """Return {method: {column: mean}} on a dataset (or an average), from each method's row with the most shots."""
    best: dict[str, Row] = {}
    for row in (row for row in section.rows if row.dataset == dataset):
        other = best.setdefault(row.label, row)
        if row.cells and row.cells[0].shots > other.cells[0].shots:
            best[row.label] = row
    found = {
        label: complete({c: row.scores[c] for c in section.columns if c in row.scores}) for label, row in best.items()
    }
    return {label: means for label, means in found.items() if means}


def zero_shot(section: Section) -> str:
    """Return the label of the zero-shot row; "" if there is none."""
    return next((row.label for row in section.rows if row.cells and row.cells[0].first["method"] == "zero_shot"), "")


def ranked(found: Values, by: Sequence[str]) -> list[str]:
    """Return the methods, best first, by the first of the columns `by` that they have; those with none come last."""
    places = {}
    for name, means in found.items():
        known = ((number, -means[column].mean) for number, column in enumerate(by) if column in means)
        places[name] = next(known, (len(by), 0.0))
    return sorted(found, key=lambda name: places[name])


def figure_title(section: Section, *parts: str) -> str:
    """Return the title of a figure: its protocol, then the parts that are not empty."""
    return ", ".join(filter(None, [TITLES[section.kind], *parts]))


def in_words(found: Values, column: str, level: str = "", most: int = 3) -> str:
    """Return `Highest (16 shots): CoOp 61.2, MaPLe 60.1; zero-shot CLIP 45.0.`, or "" without any method."""
    known = {name: means for name, means in found.items() if column in means}
    names = [name for name in ranked(known, [column]) if name != level][:most]
    best = ", ".join(f"{name} {known[name][column].mean:.1f}" for name in names)
    zero_shot = f"; {level} {known[level][column].mean:.1f}" if level in known else ""
    return f"Highest ({column}): {best}{zero_shot}." if best else ""
