"""Small multiples: a panel for each of many methods, so that none hides another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptvision.report.figures.losses import Progress
from promptvision.report.figures.style import (
    COLOURS,
    QUIET,
    STRONG,
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

ACROSS = 4
"""Panels in a row."""
Curves = Mapping[str, Mapping[int, tuple[float, float]]]
"""{method: {shots: (mean, half of its interval)}}"""


def few_shot_panels(curves: Curves, level: float | None, title: str) -> Figure:
    """Draw accuracy over shots, each method in front of all others in grey; `level`: zero-shot, dashed."""
    figure, drawn = method_panels(list(curves), 1.55, same_scale=True)
    counts = sorted({shots for points in curves.values() for shots in points})
    low, high = limits([(mean,) * 3 for points in curves.values() for mean, _ in points.values()])
    lines = {}
    for name, points in curves.items():
        shots = sorted(points)
        lines[name] = [counts.index(k) for k in shots], [points[k][0] for k in shots]
    for axes, (name, points) in zip(drawn, curves.items(), strict=True):
        for line in lines.values():
            axes.plot(*line, color=QUIET, linewidth=0.7, zorder=1)
        if level is not None:
            axes.axhline(level, color=STRONG, linestyle="--", linewidth=0.9, zorder=2)
        x, means = lines[name]
        under, over = ([points[k][0] + sign * points[k][1] for k in sorted(points)] for sign in (-1, 1))
        axes.fill_between(x, under, over, color=COLOURS[0], alpha=0.2, linewidth=0, zorder=2)
        axes.plot(x, means, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3, zorder=3)
        axes.set_xticks(range(len(counts)), [str(shots) for shots in counts])
        _write_outside(axes, means, low, high)
    drawn[0].set_ylim(low, high)
    dashed = "; dashed: zero-shot" if level is not None else ""
    figure.supxlabel(f"training images per class{dashed}", fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    figure.suptitle(wrapped(title, 80), fontsize=11)
    return figure


def _write_outside(axes: Any, means: Sequence[float], low: float, high: float) -> None:
    """Write into a panel the means of its curve that are outside the limits."""
    outside = [mean for mean in means if not low <= mean <= high]
    if outside:
        side, y = ("below", 0.08) if min(outside) < low else ("above", 0.92)
        text = f"{side}: {span(outside)}"
        axes.text(0.5, y, text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=COLOURS[0])


def training_panels(rows: Mapping[str, Sequence[tuple[str, Progress]]], title: str) -> Figure:
    """Draw the losses of every run over its share of the training, and its validation accuracies, dashed.

    `rows`: {method: (group, progress of a run) ...}; each panel has its own scale, each group its own colour.
    """
    groups = list(dict.fromkeys(group for runs in rows.values() for group, _ in runs))
    colours = dict(zip(groups, shades(len(groups)) if len(groups) > 1 else [COLOURS[0]], strict=True))
    figure, drawn = method_panels(list(rows), 1.5)
    for axes, runs in zip(drawn, rows.values(), strict=True):
        axes.locator_params(axis="y", nbins=4)
        axes.set_xticks([0, 50, 100])
        for group, run in runs:
            axes.plot(*zip(*run.losses, strict=True), color=colours[group], linewidth=0.8)
        _plot_validation(axes, [run for _, run in runs if run.validation])
    for axes in drawn[-ACROSS:]:
        axes.set_xlabel("% of the steps", fontsize=8)
    handles = [pyplot.Line2D([], [], color=colour, label=plain(group)) for group, colour in colours.items() if group]
    if any(run.validation for runs in rows.values() for _, run in runs):
        handles.append(pyplot.Line2D([], [], color=COLOURS[1], linestyle="--", label="validation accuracy (%), right"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.supylabel("training loss", fontsize=9)
    figure.suptitle(wrapped(title, 80), fontsize=11)
    return figure


def _plot_validation(axes: Any, runs: Sequence[Progress]) -> None:
    """Draw validation accuracies, dashed, on a second y axis."""
    if runs:
        right = axes.twinx()
        for run in runs:
            right.plot(*zip(*run.validation, strict=True), color=COLOURS[1], linewidth=1, linestyle="--")
        right.tick_params(labelsize=7, labelcolor=COLOURS[1])
        right.locator_params(axis="y", nbins=4)
        right.spines["top"].set_visible(False)


def method_panels(names: Sequence[str], height: float, same_scale: bool = False) -> tuple[Figure, list[Any]]:
    """Make a panel per method; the lowest panel of each column shows the x axis for those above it."""
    across = min(ACROSS, len(names))
    figure, drawn = panels(
        len(names), across, (2.15, height), rest=(0.8, 0.9), least=3.5, sharex=True, sharey=same_scale
    )
    for axes, name in zip(drawn, names, strict=True):
        axes.set_title(wrapped(name, 26), fontsize=9)
        tidy(axes)
    for axes in drawn[-across:]:
        axes.tick_params(labelbottom=True)
    return figure, drawn
