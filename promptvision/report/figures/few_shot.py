"""Accuracy over shots: the ranking at every number of shots, and each method's curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from promptvision.report.figures.dots import dots_in_rows, ranked
from promptvision.report.figures.panels import few_shot_panels
from promptvision.report.figures.style import COLOURS, Drawing, plain, pyplot, save, wrapped
from promptvision.report.figures.values import in_words, whole, zero_shot
from promptvision.report.scores import Score
from promptvision.report.sections import Section
from promptvision.report.tables.over_shots import by_shots, shots_name

Seeds = Mapping[str, Mapping[int, Sequence[float]]]
"""{method: {shots: accuracies over seeds}}"""
MOST_LINES = 6
"""In one pair of axes."""


@dataclass(frozen=True)
class Curves:
    """{method: {shots: score}} on one data set or average (`column`), zero-shot's under the name `level`."""

    kind: str
    column: str
    level: str
    scores: Mapping[str, Mapping[int, Score]]

    @property
    def shots(self) -> list[int]:
        """All numbers of them."""
        return sorted({shots for points in self.scores.values() for shots in points})

    @property
    def named(self) -> dict[str, dict[str, Score]]:
        """{method: {"16 shots": score}}"""
        return {name: {shots_name(k): s for k, s in points.items()} for name, points in self.scores.items()}

    @property
    def trained(self) -> dict[str, Mapping[int, Score]]:
        """Without zero-shot."""
        return {name: points for name, points in self.scores.items() if name != self.level}

    @property
    def base(self) -> float | None:
        """Zero-shot's mean."""
        return next((score.mean for score in self.scores.get(self.level, {}).values()), None)

    @property
    def told(self) -> str:
        """What every caption says."""
        highest = in_words(self.named, shots_name(self.shots[-1]), self.level)
        return f"of {len(self.scores)} methods on {self.column}. {highest}"


def few_shot_ranks(section: Section) -> Iterator[Drawing]:
    """For each data set and the average the order of many methods at each number of shots."""
    for curves in _curves(section):
        if len(curves.trained) > MOST_LINES:
            columns = [shots_name(k) for k in curves.shots]
            title = f"Few-shot, {curves.column}: ranked with {columns[-1]}"
            level = {} if curves.base is None else {columns[-1]: curves.base}
            about = f"Accuracy with each number of shots {curves.told}"
            draw = partial(dots_in_rows, curves.named, columns, title, level, ordered=True)
            yield Drawing(curves.kind, title, about, draw)


def few_shot_curves(section: Section) -> Iterator[Drawing]:
    """For each data set and the average accuracy over shots: few methods together, many in a panel each."""
    for curves in _curves(section):
        yield _panels(curves) if len(curves.trained) > MOST_LINES else _lines(curves)


def _curves(section: Section) -> Iterator[Curves]:
    """Where some method has several numbers of shots."""
    level = zero_shot(section)
    for column in section.columns:
        found = by_shots(section, column)
        scores = {name: {k: s for k, s in points.items() if whole(s)} for name, points in found.items()}
        curves = Curves(section.kind, column, level, {name: points for name, points in scores.items() if points})
        if any(len(points) > 1 for points in curves.trained.values()):
            yield curves


def _lines(curves: Curves) -> Drawing:
    title = f"Few-shot, {curves.column}"
    lines = {name: {k: _seeds(score) for k, score in points.items()} for name, points in curves.trained.items()}
    stars = {} if curves.base is None else {curves.level: curves.base}
    about = f"Accuracy over shots {curves.told} Bands: one deviation over seeds."
    return Drawing(curves.kind, title, about, partial(few_shot_lines, lines, stars, plain(title)))


def _panels(curves: Curves) -> Drawing:
    title = f"Few-shot, {curves.column}: every method before the others"
    names = ranked(curves.named, [shots_name(k) for k in reversed(curves.shots)])
    panels = {
        name: {k: (s.mean or 0.0, s.half or 0.0) for k, s in curves.trained[name].items()}
        for name in names
        if name in curves.trained
    }
    about = f"Accuracy over shots, a panel for each {curves.told} Bands: 95 % interval over seeds."
    return Drawing(curves.kind, title, about, partial(few_shot_panels, panels, curves.base, title))


def _seeds(score: Score) -> list[float]:
    return list(score.values.values()) or [score.mean or 0.0]


def few_shot_curve(curves: Seeds, levels: Mapping[str, float], title: str, path: str | Path) -> list[Path]:
    """`few_shot_lines` as `path`.png and `path`.svg."""
    return save(few_shot_lines(curves, levels, title), path)


def few_shot_lines(curves: Seeds, levels: Mapping[str, float], title: str) -> Figure:
    """Accuracy over training images per class (CoOp, arXiv:2109.01134, figure 3).

    `curves` are drawn as mean with a band of one deviation. `levels`: name to accuracy without any training images,
    drawn as a star at 0.
    """
    figure, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
    axes.set_prop_cycle(color=COLOURS)
    for name, points in curves.items():
        shots = sorted(points)
        means = [mean(points[k]) for k in shots]
        spread = [stdev(points[k]) if len(points[k]) > 1 else 0.0 for k in shots]
        (line,) = axes.plot(shots, means, marker="o", label=wrapped(name))
        low, high = zip(*((m - s, m + s) for m, s in zip(means, spread, strict=True)), strict=True)
        axes.fill_between(shots, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for name, accuracy in levels.items():
        axes.plot([0], [accuracy], marker="*", markersize=12, linestyle="none", label=wrapped(name))
    ticks = sorted({0, *(k for points in curves.values() for k in points)})
    axes.set(title=title, xlabel="training images per class", ylabel="accuracy (%)", xticks=ticks)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
