"""Radar charts over datasets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from promptvision.errors import counted
from promptvision.report.figures.style import COLOURS, Drawing, Figure, plain, pyplot, wrapped
from promptvision.report.figures.values import datasets, figure_title, values
from promptvision.report.sections import SOURCE, Section

KINDS = ("few_shot", "full", "vtab", "fgvc", "cross_dataset", "domain_generalization")
"""Kinds of table whose columns are datasets."""
NO_AXES = ("average", "mean", "Natural", "Specialized", "Structured", SOURCE)
"""Columns of theirs that are not."""
MOST_METHODS = 6


def radars(section: Section) -> Iterator[Drawing]:
    """Yield a chart of few methods over three or more datasets that all of them have."""
    for dataset in datasets(section) if section.kind in KINDS else ():
        found = values(section, dataset)
        axes = [name for name in section.columns if name not in NO_AXES]
        shared = [name for name in axes if all(name in means for means in found.values())]
        if len(shared) > 2 and len(found) <= MOST_METHODS:
            lines = {label: [means[column].mean for column in shared] for label, means in found.items()}
            name = figure_title(section, dataset, "all datasets")
            about = f"Accuracy of {counted(len(lines), 'method')} on {len(shared)} axes: {', '.join(shared)}."
            yield Drawing(section.kind, name, about, partial(radar, lines, shared, name))


def radar(found: Mapping[str, Sequence[float]], axes_names: Sequence[str], title: str) -> Figure:
    """Draw an axis per dataset and a closed line per method (MaPLe, arXiv:2210.03117, figure 1)."""
    angles = [2 * math.pi * number / len(axes_names) for number in range(len(axes_names))]
    figure, axes = pyplot.subplots(
        figsize=(5.5, 4.6 + 0.2 * len(found)), layout="constrained", subplot_kw={"projection": "polar"}
    )
    axes.set_prop_cycle(color=COLOURS)
    for name, each in found.items():
        (line,) = axes.plot([*angles, angles[0]], [*each, each[0]], marker="o", markersize=3, label=wrapped(name))
        axes.fill([*angles, angles[0]], [*each, each[0]], color=line.get_color(), alpha=0.06)
    axes.set_xticks(angles, [plain(name) for name in axes_names], fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.tick_params(axis="x", pad=12)
    axes.set_title(wrapped(title))
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return figure
