"""Accuracy over shots: the ranking at every number of shots, and the curve of every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev

import numpy as np

from promptvision.errors import counted
from promptvision.report.figures.dots import dots_in_rows
from promptvision.report.figures.panels import few_shot_panels
from promptvision.report.figures.style import COLOURS, STRONG, Drawing, Figure, plain, pyplot, wrapped
from promptvision.report.figures.values import Mean, complete, in_words, is_complete, ranked, zero_shot
from promptvision.report.scores import Score
from promptvision.report.sections import Section
from promptvision.report.tables.over_shots import by_shots, shots_name

Seeds = Mapping[str, Mapping[int, Sequence[float]]]
"""{method: {shots: accuracies over seeds}}"""
MOST_LINES = 6
"""Methods that share one pair of axes."""
LEGEND = 24
"""Characters in a line of the legend beside them."""


@dataclass(frozen=True)
class Curves:
    """Scores over shots on one dataset or average, `column`.

    `shots`: every number of shots, as `16 shots`; `means`: {method: {"16 shots": mean}}, best method first; `scores`:
    {method: {shots: score}} without zero-shot CLIP, which is called `level` and has the mean `base`.
    """

    column: str
    shots: Sequence[str]
    means: Mapping[str, Mapping[str, Mean]]
    scores: Mapping[str, Mapping[int, Score]]
    level: str
    base: float | None

    def ranks(self) -> Drawing:
        """Return the dots of all methods at each number of shots."""
        title = f"Few-shot, {self.column}: ranked at {self.shots[-1]}"
        level = {} if self.base is None else {self.shots[-1]: Mean(self.base)}
        draw = partial(dots_in_rows, self.means, self.shots, title, level, ordered=True)
        return Drawing("few_shot", title, self._caption("at each number of shots"), draw)

    def lines(self) -> Drawing:
        """Return the curves of few methods in one pair of axes."""
        lines, title = {}, f"Few-shot, {self.column}"
        for name, points in self.scores.items():
            lines[name] = {k: list(score.values.values()) or [score.mean or 0.0] for k, score in points.items()}
        stars = {} if self.base is None else {self.level: self.base}
        about = f"{self._caption('over shots')} Bands: one deviation over seeds."
        return Drawing("few_shot", title, about, partial(few_shot_lines, lines, stars, plain(title)))

    def panels(self) -> Drawing:
        """Return the curves of many methods, a panel each."""
        panels, title = {}, f"Few-shot, {self.column}: each method against the others"
        for name in (name for name in self.means if name in self.scores):
            panels[name] = {k: (score.mean or 0.0, score.half or 0.0) for k, score in self.scores[name].items()}
        about = f"{self._caption('over shots, a panel each')} Bands: 95 % interval over seeds."
        return Drawing("few_shot", title, about, partial(few_shot_panels, panels, self.base, title))

    def _caption(self, how: str) -> str:
        best = in_words(self.means, self.shots[-1], self.level)
        return f"Accuracy of {counted(len(self.means), 'method')} {how} ({self.column}). {best}"


def curves_of(section: Section) -> Iterator[Curves]:
    """Yield the curves of every column in which some method has several numbers of shots."""
    level = zero_shot(section)
    for column in section.columns:
        found = by_shots(section, column)
        scores = {name: {k: s for k, s in points.items() if is_complete(s)} for name, points in found.items()}
        shots = [shots_name(k) for k in sorted({k for points in scores.values() for k in points})]
        means = {name: complete({shots_name(k): s for k, s in points.items()}) for name, points in scores.items()}
        trained = {name: points for name, points in scores.items() if points and name != level}
        if any(len(points) > 1 for points in trained.values()):
            names = ranked({name: each for name, each in means.items() if each}, shots[::-1])
            base = next((each.mean for each in means.get(level, {}).values()), None)
            yield Curves(column, shots, {name: means[name] for name in names}, trained, level, base)


def few_shot_lines(curves: Seeds, levels: Mapping[str, float], title: str) -> Figure:
    """Draw accuracy over training images per class (CoOp, arXiv:2109.01134, figure 3).

    `curves` are drawn as a mean with a band of one deviation. `levels`: {name: accuracy without any training images},
    drawn as a star at 0. The legend is beside the axes, in the order in which the curves end.
    """
    figure, axes = pyplot.subplots(figsize=(6.6, 3.6), layout="constrained")
    axes.set_prop_cycle(color=COLOURS)
    for name, points in curves.items():
        shots = sorted(points)
        means = [mean(points[k]) for k in shots]
        spread = [stdev(points[k]) if len(points[k]) > 1 else 0.0 for k in shots]
        (line,) = axes.plot(shots, means, marker="o", label=wrapped(name, LEGEND))
        low, high = zip(*((m - s, m + s) for m, s in zip(means, spread, strict=True)), strict=True)
        axes.fill_between(shots, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for name, accuracy in levels.items():
        axes.plot([0], [accuracy], "*", color=STRONG, markersize=12, label=wrapped(name, LEGEND))
    ticks = sorted({0, *(k for points in curves.values() for k in points)})
    axes.set(title=title, xlabel="training images per class", ylabel="accuracy (%)", xticks=ticks)
    axes.grid(alpha=0.3)
    highest = sorted(axes.get_lines(), key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    figure.legend(handles=highest, loc="outside right center", frameon=False, fontsize=8)
    return figure
