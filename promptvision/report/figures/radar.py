"""Spider webs over data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from promptvision.report.figures.style import COLOURS, plain, pyplot, wrapped


def radar(values: Mapping[str, Sequence[float]], axes_names: Sequence[str], title: str) -> Figure:
    """A web with an axis per data set, one line per name (MaPLe, arXiv:2210.03117, figure 1)."""
    angles = [2 * math.pi * number / len(axes_names) for number in range(len(axes_names))]
    figure, axes = pyplot.subplots(
        figsize=(5.5, 4.6 + 0.2 * len(values)), layout="constrained", subplot_kw={"projection": "polar"}
    )
    axes.set_prop_cycle(color=COLOURS)
    for name, each in values.items():
        (line,) = axes.plot([*angles, angles[0]], [*each, each[0]], marker="o", markersize=3, label=wrapped(name))
        axes.fill([*angles, angles[0]], [*each, each[0]], color=line.get_color(), alpha=0.06)
    axes.set_xticks(angles, [plain(name) for name in axes_names], fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.tick_params(axis="x", pad=12)
    axes.set_title(wrapped(title))
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return figure
