"""Results as drawings, the way the papers draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from promptvision.report.figures.style import COLOURS, pyplot, save, wrapped

Curves = Mapping[str, Mapping[int, Sequence[float]]]
"""Name to {shots: accuracies over seeds}."""


def few_shot_curve(curves: Curves, levels: Mapping[str, float], title: str, path: str | Path) -> list[Path]:
    """`few_shot_lines` as `path`.png and `path`.svg."""
    return save(few_shot_lines(curves, levels, title), path)


def few_shot_lines(curves: Curves, levels: Mapping[str, float], title: str) -> Figure:
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
