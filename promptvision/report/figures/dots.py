"""Scores of many methods as dots, the best method on top: they stay readable where bars and lines would not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from promptvision.report.figures.style import (
    COLOURS,
    MARKERS,
    QUIET,
    STRONG,
    limits,
    plain,
    pyplot,
    shades,
    tidy,
    wrapped,
)
from promptvision.report.scores import Score

Values = Mapping[str, Mapping[str, Score]]
"""Method -> column -> score."""
MOST_ACROSS = 6
"""Panels side by side."""


def ranked(values: Values, by: Sequence[str]) -> list[str]:
    """The methods, best first, by the first of the columns `by` that they have; those that have none come last."""

    def place(name: str) -> tuple[int, float]:
        known = [(number, -_mean(values[name][column])) for number, column in enumerate(by) if column in values[name]]
        return known[0] if known else (len(by), 0.0)

    return sorted(values, key=place)


def dots_in_rows(
    values: Values, columns: Sequence[str], title: str, level: Mapping[str, float], ordered: bool
) -> Figure:
    """One line per method with a dot per column, ranked by the last: shots (`ordered`, light to dark), or base, new
    and H. `level`: column -> what needs no training, dashed; only that of the last column is drawn."""
    names = ranked(values, list(reversed(columns)))
    figure, axes = pyplot.subplots(figsize=(5.7, 1.3 + 0.24 * len(names)), layout="constrained")
    colours = shades(len(columns)) if ordered else COLOURS
    for number, column in enumerate(columns):
        marker = "o" if ordered else MARKERS[number % len(MARKERS)]
        shift = 0.0 if ordered else 0.16 * (number - (len(columns) - 1) / 2)
        _dots(axes, values, names, column, colours[number % len(colours)], marker, shift, spread=not ordered)
    for y, name in enumerate(names if ordered else ()):
        means = [_mean(score) for score in values[name].values()]
        axes.plot([min(means), max(means)], [y, y], color=QUIET, linewidth=2.5, zorder=0, solid_capstyle="round")
    if columns[-1] in level:
        axes.axvline(level[columns[-1]], color=STRONG, linestyle="--", linewidth=0.9, label="zero-shot", zorder=1)
    _finish(axes, names, [list(values[name].values()) for name in names], spread=not ordered)
    axes.locator_params(axis="x", nbins=8, integer=True)
    axes.set_xlabel("accuracy (%)", fontsize=9)
    figure.suptitle(wrapped(title, 56), fontsize=11)
    figure.legend(loc="outside lower center", ncols=len(columns) + 1, frameon=False, fontsize=8, handletextpad=0.3)
    return figure


def dot_panels(values: Values, columns: Sequence[str], title: str, level: Mapping[str, float], by: str) -> Figure:
    """A panel per column with a dot and its interval per method, all in the order of column `by`; `level`: column ->
    what needs no training, dashed."""
    names = ranked(values, [by, *columns])
    down = -(-len(columns) // MOST_ACROSS)
    across = -(-len(columns) // down)
    size = (1.9 + max(3.4, 1.45 * across), down * (0.75 + 0.22 * len(names)) + 0.4)
    figure, panels = pyplot.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes in panels.flat[len(columns) :]:
        axes.set_axis_off()
    for axes, column in zip(panels.flat, columns, strict=False):
        _dots(axes, values, names, column, COLOURS[0], "o", 0.0, spread=True)
        if column in level:
            axes.axvline(level[column], color=STRONG, linestyle="--", linewidth=0.9)
        _finish(axes, names, [[s for c, s in values[name].items() if c == column] for name in names], spread=True)
        axes.locator_params(axis="x", nbins=5 if across > 1 else 8, integer=True)
        axes.set_title(wrapped(column, 18 if across > 1 else 48), fontsize=9)
    figure.supxlabel("per cent" + (", dashed: zero-shot" if level else ""), fontsize=9)
    figure.suptitle(wrapped(title, 30 + 12 * across), fontsize=11)
    return figure


def _dots(
    axes: Any, values: Values, names: Sequence[str], column: str, colour: str, marker: str, shift: float, spread: bool
) -> None:
    """One column's dots, `shift` below the middle of their lines; `spread`: with their intervals."""
    there = [(y + shift, values[name][column]) for y, name in enumerate(names) if column in values[name]]
    if not there:
        return
    y, scores = zip(*there, strict=True)
    x, halves = [_mean(score) for score in scores], [min(score.half or 0.0, 100.0) for score in scores]
    if spread and any(halves):
        axes.errorbar(x, y, xerr=halves, fmt="none", ecolor=colour, elinewidth=1, alpha=0.5)
    axes.scatter(x, y, s=28, color=colour, marker=marker, label=plain(column), zorder=3, linewidths=0.5, edgecolors="w")


def _finish(axes: Any, names: Sequence[str], rows: Sequence[Sequence[Score]], spread: bool) -> None:
    """Names, grid and limits; means of a row that are beyond these are written at the edge."""
    axes.set_yticks(range(len(names)), [wrapped(name, 34) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    ends = [(_mean(score), (score.half or 0.0) if spread else 0.0) for row in rows for score in row]
    low, high = limits([(mean, mean - half, mean + half) for mean, half in ends])
    axes.set_xlim(low, high)
    for y, row in enumerate(rows):
        below, above = [_mean(s) for s in row if _mean(s) < low], [_mean(s) for s in row if _mean(s) > high]
        if below:
            axes.text(low, y - 0.28, f" ◂ {_span(below)}", va="center", fontsize=7)
        if above:
            axes.text(high, y - 0.28, f"{_span(above)} ▸ ", va="center", ha="right", fontsize=7)
    tidy(axes, "x")
    axes.grid(axis="y", alpha=0.15, linewidth=0.6)


def _span(means: Sequence[float]) -> str:
    return f"{min(means):.1f}" + (f" to {max(means):.1f}" if len(means) > 1 else "")


def _mean(score: Score) -> float:
    return score.mean or 0.0
