"""The accuracy matrices of streams of tasks, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from promptvision.report.figures.streams import heat
from promptvision.report.figures.style import plain, pyplot, wrapped
from promptvision.report.names import matrix_rows

ACROSS = 3


def matrix_panels(streams: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """{method: its results over seeds}: accuracy (%) on each task after each task, the mean over seeds whose streams
    are of the same tasks as the first one's."""
    across = min(ACROSS, len(streams))
    down = -(-len(streams) // across)
    tasks = max(len(results[0]["tasks"]) for results in streams.values())
    side = max(2.2, 0.45 * tasks)
    figure, panels = pyplot.subplots(
        down, across, figsize=(1 + (side + 0.6) * across, 0.8 + (0.85 * side + 0.6) * down), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in panels.flat[len(streams) :]:
        axes.set_axis_off()
    for axes, (name, results) in zip(panels.flat, streams.items(), strict=False):
        names = [plain(task["name"]) for task in results[0]["tasks"]]
        heat(axes, mean_matrix(results), names, [plain(row) for row in matrix_rows(results[0])], 100.0, "{:.0f}")
        axes.set_title(wrapped(name, 30), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", rotation=40)
    figure.supxlabel("accuracy (%) on", fontsize=9)
    figure.supylabel("after learning", fontsize=9)
    figure.suptitle(wrapped(title, 70), fontsize=11)
    return figure


def mean_matrix(results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(rows, tasks), empty where a task was still to come."""
    first = results[0]
    alike = [result for result in results if _shape(result) == _shape(first)]
    values = np.full((len(first["matrix"]), len(first["tasks"])), np.nan)
    for number, row in enumerate(first["matrix"]):
        values[number, : len(row)] = np.mean([result["matrix"][number] for result in alike], axis=0)
    return values


def _shape(result: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    return [task["name"] for task in result["tasks"]], [len(row) for row in result["matrix"]]
