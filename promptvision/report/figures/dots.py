"""Scores of many methods as dots, the best method on top: readable where bars and lines are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from promptvision.errors import counted
from promptvision.report.figures.style import (
    COLOURS,
    MARKERS,
    QUIET,
    STRONG,
    Drawing,
    Figure,
    limits,
    panels,
    plain,
    pyplot,
    shades,
    span,
    tidy,
    wrapped,
)
from promptvision.report.figures.values import Mean, Values, datasets, figure_title, in_words, ranked, values, zero_shot
from promptvision.report.sections import Section

MOST_ACROSS = 6
"""Panels in a row."""


def base_to_new(section: Section) -> Iterator[Drawing]:
    """Yield for each dataset and the average: base, new and H of every method, the highest H on top."""
    level, columns = zero_shot(section), [name for name in ("base", "new", "H") if name in section.columns]
    for dataset in datasets(section):
        found, title = values(section, dataset), figure_title(section, dataset)
        if any(len(means) > 1 for means in found.values()):
            about = f"Accuracy of {counted(len(found), 'method')} on base and new classes, and H."
            about = f"{about} {in_words(found, 'H', level)}".strip()
            draw = partial(dots_in_rows, found, columns, title, found.get(level, {}), ordered=False)
            yield Drawing(section.kind, title, about, draw)


def all_columns(section: Section) -> Iterator[Drawing]:
    """Yield for each dataset: the scores of every column, a panel each, ordered by the average or the first column."""
    by, level = next((c for c in ("average", "mean") if c in section.columns), section.columns[0]), zero_shot(section)
    for dataset in datasets(section):
        found, title = values(section, dataset), figure_title(section, dataset)
        columns = [name for name in section.columns if any(name in means for means in found.values())]
        if len(found) > 1:
            about = f"Scores of {counted(len(found), 'method')}. {in_words(found, by, level)}".strip()
            draw = partial(dot_panels, found, columns, title, found.get(level, {}), by)
            yield Drawing(section.kind, title, about, draw)


def dots_in_rows(found: Values, columns: Sequence[str], title: str, level: Mapping[str, Mean], ordered: bool) -> Figure:
    """Draw a line per method with a dot per column, ranked by the last column.

    Columns are shots (`ordered`, light to dark), or base, new and H. `level`: the zero-shot means, of which that of
    the last column is drawn, dashed.
    """
    names = ranked(found, list(reversed(columns)))
    figure, axes = pyplot.subplots(figsize=(5.7, 1.3 + 0.24 * len(names)), layout="constrained")
    colours = shades(len(columns)) if ordered else COLOURS
    for number, column in enumerate(columns):
        marker = "o" if ordered else MARKERS[number % len(MARKERS)]
        shift = 0.0 if ordered else 0.16 * (number - (len(columns) - 1) / 2)
        _dots(axes, found, names, column, colours[number % len(colours)], marker, shift, spread=not ordered)
    for y, name in enumerate(names if ordered else ()):
        means = [each.mean for each in found[name].values()]
        axes.plot([min(means), max(means)], [y, y], color=QUIET, linewidth=2.5, zorder=0, solid_capstyle="round")
    if columns[-1] in level:
        axes.axvline(level[columns[-1]].mean, color=STRONG, linestyle="--", linewidth=0.9, label="zero-shot", zorder=1)
    _finish(axes, names, [list(found[name].values()) for name in names], spread=not ordered)
    axes.locator_params(axis="x", nbins=8, integer=True)
    axes.set_xlabel("accuracy (%)", fontsize=9)
    figure.suptitle(wrapped(title, 56), fontsize=11)
    figure.legend(loc="outside lower center", ncols=len(columns) + 1, frameon=False, fontsize=8, handletextpad=0.3)
    return figure


def dot_panels(found: Values, columns: Sequence[str], title: str, level: Mapping[str, Mean], by: str) -> Figure:
    """Draw a panel per column with a dot and its interval per method, all in the order of column `by`.

    `level`: the zero-shot means, dashed.
    """
    names = ranked(found, [by, *columns])
    rows = -(-len(columns) // MOST_ACROSS)
    across = -(-len(columns) // rows)
    figure, drawn = panels(
        len(columns), across, (1.45, 0.75 + 0.22 * len(names)), rest=(1.9, 0.4), least=3.4, sharey=True
    )
    for axes, column in zip(drawn, columns, strict=True):
        _dots(axes, found, names, column, COLOURS[0], "o", 0.0, spread=True)
        if column in level:
            axes.axvline(level[column].mean, color=STRONG, linestyle="--", linewidth=0.9)
        _finish(axes, names, [[each for c, each in found[name].items() if c == column] for name in names], spread=True)
        axes.locator_params(axis="x", nbins=5 if across > 1 else 8, integer=True)
        axes.set_title(wrapped(column, 18 if across > 1 else 48), fontsize=9)
    figure.supxlabel("per cent" + (", dashed: zero-shot" if level else ""), fontsize=9)
    figure.suptitle(wrapped(title, 30 + 12 * across), fontsize=11)
    return figure


def _dots(
    axes: Any, found: Values, names: Sequence[str], column: str, colour: str, marker: str, shift: float, spread: bool
) -> None:
    """Draw the dots of one column, `shift` below the middle of their lines; `spread`: with their intervals."""
    known = [(y + shift, found[name][column]) for y, name in enumerate(names) if column in found[name]]
    if not known:
        return
    y, x, halves = zip(*((y, each.mean, each.half) for y, each in known), strict=True)
    if spread and any(halves):
        axes.errorbar(x, y, xerr=halves, fmt="none", ecolor=colour, elinewidth=1, alpha=0.5)
    axes.scatter(x, y, s=28, color=colour, marker=marker, label=plain(column), zorder=3, linewidths=0.5, edgecolors="w")


def _finish(axes: Any, names: Sequence[str], rows: Sequence[Sequence[Mean]], spread: bool) -> None:
    """Set names, grid and limits, and write means beyond the limits at the edge."""
    axes.set_yticks(range(len(names)), [wrapped(name, 34) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = limits([(m.mean, m.mean - spread * m.half, m.mean + spread * m.half) for row in rows for m in row])
    axes.set_xlim(low, high)
    for y, row in enumerate(rows):
        below, above = [m.mean for m in row if m.mean < low], [m.mean for m in row if m.mean > high]
        if below:
            axes.text(low, y - 0.28, f" ◂ {span(below)}", va="center", fontsize=7)
        if above:
            axes.text(high, y - 0.28, f"{span(above)} ▸ ", va="center", ha="right", fontsize=7)
    tidy(axes, "x")
    axes.grid(axis="y", alpha=0.15, linewidth=0.6)
