"""How far methods are from zero-shot CLIP: bars for one number each, a map for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from promptvision.report.figures.style import COLOURS, pyplot, tidy, wrapped


def difference_bars(values: Mapping[str, float], title: str) -> Figure:
    """Absolute differences in per cent, the largest on top (CoOp, arXiv:2109.01134, figure 4)."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure, axes = pyplot.subplots(figsize=(5.7, 1.0 + 0.26 * len(ordered)), layout="constrained")
    colours = [COLOURS[0] if value >= 0 else COLOURS[1] for _, value in ordered]
    bars = axes.barh([wrapped(name, 34) for name, _ in ordered], [value for _, value in ordered], color=colours)
    axes.bar_label(bars, fmt="%+.1f", padding=3, fontsize=8)
    axes.margins(x=0.18)
    axes.axvline(0, color="black", linewidth=0.8)
    tidy(axes, "x")
    axes.set(xlabel="absolute difference (%)")
    figure.suptitle(wrapped(title, 54), fontsize=11)
    return figure


def difference_map(values: Mapping[str, Mapping[str, float]], columns: Sequence[str], title: str) -> Figure:
    """{method: {column: difference}} as a map with its numbers, the largest mean on top; blue above, red below."""
    names = sorted(values, key=lambda name: -np.mean(list(values[name].values())))
    grid = np.array([[values[name].get(column, np.nan) for column in columns] for name in names])
    heads = [wrapped(column, 12) for column in columns]
    lines = max(head.count("\n") for head in heads)
    size = (2.2 + max(3.2, 0.72 * len(columns)), 1.2 + 0.25 * len(names) + 0.13 * lines)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    most = max(1.0, float(np.nanpercentile(np.abs(grid), 90)))
    axes.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for (y, x), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "white" if abs(value) > 0.65 * most else "black"
            axes.text(x, y, f"{value:+.1f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_yticks(range(len(names)), [wrapped(name, 34) for name in names], fontsize=8)
    axes.set_xticks(range(len(columns)), heads, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(wrapped(title, 54), fontsize=11)
    return figure
