"""Small multiples: a panel for each of many methods, so that none hides another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from promptvision.report.figures.losses import Progress
from promptvision.report.figures.style import COLOURS, QUIET, STRONG, limits, plain, pyplot, shades, tidy, wrapped

ACROSS = 4
Curves = Mapping[str, Mapping[int, tuple[float, float]]]
"""Method -> shots -> (mean, half of its interval)."""


def few_shot_panels(curves: Curves, level: float | None, title: str) -> Figure:
    """Accuracy over shots, each method before all others in grey; `level`: zero-shot, dashed."""
    figure, panels = _panels(len(curves), 1.55, same_scale=True)
    counts = sorted({shots for points in curves.values() for shots in points})
    for axes, name in zip(panels, curves, strict=True):
        for points in curves.values():
            _curve(axes, points, counts, color=QUIET, linewidth=0.7, zorder=1)
        if level is not None:
            axes.axhline(level, color=STRONG, linestyle="--", linewidth=0.9, zorder=2)
        own = curves[name]
        x = [counts.index(shots) for shots in sorted(own)]
        under, over = ([own[shots][0] + sign * own[shots][1] for shots in sorted(own)] for sign in (-1, 1))
        axes.fill_between(x, under, over, color=COLOURS[0], alpha=0.2, linewidth=0, zorder=2)
        _curve(axes, own, counts, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3, zorder=3)
        axes.set_title(wrapped(name, 26), fontsize=9)
        axes.set_xticks(range(len(counts)), [str(shots) for shots in counts])
        tidy(axes)
    low, high = limits([(mean,) * 3 for points in curves.values() for mean, _ in points.values()])
    panels[0].set_ylim(low, high)
    for axes, points in zip(panels, curves.values(), strict=True):
        _tell_outside(axes, [mean for mean, _ in points.values()], low, high)
    dashed = "; dashed: zero-shot" if level is not None else ""
    figure.supxlabel(f"training images per class{dashed}", fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    figure.suptitle(wrapped(title, 80), fontsize=11)
    return figure


def _tell_outside(axes: Any, means: Sequence[float], low: float, high: float) -> None:
    """What a panel cannot show of its own curve."""
    outside = [mean for mean in means if not low <= mean <= high]
    if outside:
        where, y = ("below", 0.08) if min(outside) < low else ("above", 0.92)
        told = f"{where}: {min(outside):.1f} to {max(outside):.1f}"
        axes.text(0.5, y, told, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=COLOURS[0])


def _curve(axes: Any, points: Mapping[int, tuple[float, float]], counts: Sequence[int], **how: Any) -> None:
    shots = sorted(points)
    axes.plot([counts.index(k) for k in shots], [points[k][0] for k in shots], **how)


def training_panels(rows: Mapping[str, Sequence[tuple[str, Progress]]], title: str) -> Figure:
    """{method: (group, how a run went) ...}: the losses of every run over its share of the training, on a scale of each
    panel's own, and its validation accuracies, dashed; one colour for a group."""
    groups = list(dict.fromkeys(group for runs in rows.values() for group, _ in runs))
    colours = dict(zip(groups, shades(len(groups)) if len(groups) > 1 else [COLOURS[0]], strict=True))
    figure, panels = _panels(len(rows), 1.5)
    for axes in panels[-ACROSS:]:
        axes.set_xlabel("% of the steps", fontsize=8)
    for axes, (name, runs) in zip(panels, rows.items(), strict=True):
        other = axes.twinx() if any(run.validation for _, run in runs) else None
        for group, run in runs:
            axes.plot(*zip(*run.losses, strict=True), color=colours[group], linewidth=0.8)
            if other and run.validation:
                other.plot(*zip(*run.validation, strict=True), color=COLOURS[1], linewidth=1, linestyle="--")
        _finish_training(axes, other, name)
    handles = [pyplot.Line2D([], [], color=colour, label=plain(group)) for group, colour in colours.items() if group]
    if any(run.validation for runs in rows.values() for _, run in runs):
        handles.append(pyplot.Line2D([], [], color=COLOURS[1], linestyle="--", label="validation accuracy (%), right"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.supylabel("training loss", fontsize=9)
    figure.suptitle(wrapped(title, 80), fontsize=11)
    return figure


def _finish_training(axes: Any, other: Any, name: str) -> None:
    axes.set_title(wrapped(name, 26), fontsize=9)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xticks([0, 50, 100])
    tidy(axes)
    if other:
        other.tick_params(labelsize=7, labelcolor=COLOURS[1])
        other.locator_params(axis="y", nbins=4)
        other.spines["top"].set_visible(False)


def _panels(count: int, height: float, same_scale: bool = False) -> tuple[Figure, list[Any]]:
    """A figure and its `count` panels."""
    across = min(ACROSS, count)
    down = -(-count // across)
    size = (0.8 + max(3.5, 2.15 * across), 0.9 + height * down)
    figure, found = pyplot.subplots(
        down, across, figsize=size, squeeze=False, sharex=True, sharey=same_scale, layout="constrained"
    )
    for axes in list(found.flat)[count:]:
        axes.set_axis_off()
    for column in range(across):  # the lowest panel of each column names the x axis for those above it
        lowest = max(number for number in range(count) if number % across == column)
        found.flat[lowest].tick_params(labelbottom=True)
    return figure, list(found.flat)[:count]
