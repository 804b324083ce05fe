"""Published against embedded numbers of methods as labelled dots, a panel per ranking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from promptvision.errors import counted
from promptvision.report.figures.style import COLOURS, QUIET, STRONG, Figure, panels, plain, tidy
from promptvision.report.literature.rankings import Ranking, literature

GROUPS = {"looked at when the embedded world was designed": "white", "not looked at": COLOURS[0]}
"""Names of the two groups of methods in the legend, and what their dots are filled with."""
RADIUS = 3.5
"""Points (1/72 inch) around the middle of a dot that no label may cover."""
DISTANCES = (5.0, 11.0, 18.0, 26.0, 36.0, 48.0, 64.0)
"""Points from a dot to its label, tried from near to far, each at all of ANGLES (degrees)."""
ANGLES = (0, 180, 90, 270, 30, 150, 210, 330, 60, 120, 240, 300)


def rankings_figure(rankings: Sequence[Ranking]) -> Figure:
    """Draw a panel per ranking: a dot per method, hollow if the embedded world was designed with it."""
    figure, drawn = panels(len(rankings), len(rankings), (6.2, 5.6), (0.2, 0.7))
    for axes, ranking in zip(drawn, rankings, strict=True):
        facts, tasks = literature()[ranking.kind], counted(len(ranking.tasks), "embedded dataset")
        for (name, colour), looked_at in zip(GROUPS.items(), (True, False), strict=True):
            dots = [point for point in ranking.points if point.looked_at == looked_at]
            x, y = [point.published.value for point in dots], [point.embedded.mean for point in dots]
            axes.plot(x, y, "o", color=COLOURS[0], markerfacecolor=colour, markersize=5, label=name)
        axes.margins(0.12)
        tidy(axes, "both")
        axes.set_xlabel(f"published: {facts['published']} over 11 datasets (%)", fontsize=9)
        axes.set_ylabel(f"{facts['published']} over {tasks} (%)", fontsize=9)
        spans = [f"all methods: {ranking.correlation(False)}", f"methods not looked at: {ranking.correlation(True)}"]
        axes.set_title("\n".join([f"{facts['title']}: Spearman's rank correlation", *spans]), fontsize=10)
    handles = drawn[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8, handletextpad=0.1)
    figure.draw_without_rendering()  # settles the size of the axes, which decides where labels overlap
    for axes, ranking in zip(drawn, rankings, strict=True):
        label_dots(axes, ranking)
    return figure


def label_dots(axes: Any, ranking: Ranking) -> None:
    """Write each method's name near its dot, where it covers the least of dots, of earlier names and of the frame.

    A thin line joins a dot and a name that had no room beside it.
    """
    scale = axes.figure.dpi / 72
    spots = [(point.published.value, point.embedded.mean) for point in ranking.points]
    dots = axes.transData.transform(spots)
    taken = [np.array([dot - RADIUS * scale, dot + RADIUS * scale]) for dot in dots]
    for point, spot, dot in zip(ranking.points, spots, dots, strict=True):
        words = {"textcoords": "offset points", "fontsize": 7, "color": STRONG}
        made = axes.annotate(plain(point.published.name), spot, (0, 0), **words)
        made.set_in_layout(False)
        others, boxes = np.array([axes.bbox.get_points(), *taken]), around(dot, made.get_window_extent().size, scale)
        taken.append(min(boxes, key=partial(covered, others=others)))
        made.set_position(tuple((taken[-1][0] - dot) / scale))
        end = np.clip(dot, *taken[-1])
        if np.hypot(*(end - dot)) > DISTANCES[1] * scale - 1:
            line = axes.transData.inverted().transform([dot, end]).T
            axes.plot(*line, color=QUIET, linewidth=0.7, zorder=1.5, scalex=False, scaley=False)


def around(dot: Any, size: Any, scale: float) -> Iterator[Any]:
    """Yield boxes of a label's `size` around a dot, (lower left, upper right) in pixels, from near to far."""
    for distance in DISTANCES:
        for angle in map(math.radians, ANGLES):
            middle = dot + np.array([math.cos(angle), math.sin(angle)]) * (distance * scale + size / 2)
            yield np.array([middle - size / 2, middle + size / 2])


def covered(box: Any, others: Any) -> float:
    """Return the area of a label outside the frame, the first of `others`, and on the rest, in square pixels."""
    shared = np.minimum(box[1], others[:, 1]) - np.maximum(box[0], others[:, 0])
    inside, *on_others = np.prod(np.maximum(shared, 0), axis=1)
    return float(np.prod(box[1] - box[0]) - inside + sum(on_others))
