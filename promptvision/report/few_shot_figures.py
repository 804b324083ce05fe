"""Accuracy over shots: the ranking at every number of shots, and each method's curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from promptvision.report.curves import few_shot_lines
from promptvision.report.dots import dots_in_rows, ranked
from promptvision.report.drawing import Drawing, plain
from promptvision.report.figure_values import in_words, whole, zero_shot
from promptvision.report.multiples import few_shot_panels
from promptvision.report.over_shots import by_shots, shots_name
from promptvision.report.sections import Section
from promptvision.report.seeds import Score

MOST_LINES = 6
"""In one pair of axes."""


def few_shot(section: Section) -> Iterator[Drawing]:
    """For each data set and the average, where some method has several numbers of shots."""
    level = zero_shot(section)
    for column in section.columns:
        found = by_shots(section, column)
        curves = {name: {k: s for k, s in points.items() if whole(s)} for name, points in found.items()}
        curves = {name: points for name, points in curves.items() if points}
        if any(len(points) > 1 for name, points in curves.items() if name != level):
            yield from _figures(section.kind, curves, level, column)


def _figures(kind: str, curves: Mapping[str, Mapping[int, Score]], level: str, column: str) -> Iterator[Drawing]:
    counts = sorted({shots for points in curves.values() for shots in points})
    named = {name: {shots_name(k): score for k, score in points.items()} for name, points in curves.items()}
    columns = [shots_name(k) for k in counts]
    others = {name: points for name, points in curves.items() if name != level}
    base = {shots_name(k): score.mean or 0.0 for k, score in curves.get(level, {}).items()}
    told = f"of {len(curves)} methods on {column}. {in_words(named, columns[-1], level)}"
    if len(others) <= MOST_LINES:
        lines = {name: {k: _seeds(score) for k, score in points.items()} for name, points in others.items()}
        stars = {level: base[columns[-1]]} if base else {}
        title = f"Few-shot, {column}"
        yield Drawing(kind, title, f"Accuracy over shots {told} Bands: one deviation over seeds.",
                      partial(few_shot_lines, lines, stars, plain(title)))  # fmt: skip
        return
    title = f"Few-shot, {column}: ranked with {columns[-1]}"
    about = f"Accuracy with each number of shots {told}"
    yield Drawing(kind, title, about, partial(dots_in_rows, named, columns, title, base, ordered=True))
    title = f"Few-shot, {column}: every method before the others"
    panels = {
        name: {k: (s.mean or 0.0, s.half or 0.0) for k, s in others[name].items()}
        for name in ranked({name: named[name] for name in others}, list(reversed(columns)))
    }
    about = f"Accuracy over shots, a panel for each {told} Bands: 95 % interval over seeds."
    yield Drawing(kind, title, about, partial(few_shot_panels, panels, base.get(columns[-1]), title))


def _seeds(score: Score) -> list[float]:
    return list(score.values.values()) or [score.mean or 0.0]
