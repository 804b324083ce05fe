"""Accuracy matrices of streams of tasks as heat maps, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from promptvision.errors import counted
from promptvision.report.figures.style import Drawing, Figure, panels, plain, wrapped, write_numbers
from promptvision.report.figures.values import datasets
from promptvision.report.names import matrix_rows, task_names
from promptvision.report.sections import Section

ACROSS = 3
"""Panels in a row."""


def matrices(section: Section) -> Iterator[Drawing]:
    """Yield for each dataset the accuracy matrices of all methods together."""
    for dataset in datasets(section):
        streams = {row.label: row.cells[0].results for row in section.rows if row.dataset == dataset}
        title = f"Accuracy matrices, {dataset}"
        about = f"Accuracy of {counted(len(streams), 'method')} on each task after each task, mean over seeds."
        yield Drawing(section.kind, title, about, partial(matrix_panels, streams, title))


def matrix_panels(streams: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """Draw the mean matrix (%) of {method: its results over seeds}, a panel each."""
    across = min(ACROSS, len(streams))
    side = max(2.2, 0.45 * max(len(results[0]["tasks"]) for results in streams.values()))
    figure, drawn = panels(len(streams), across, (side + 0.6, 0.85 * side + 0.6), rest=(1.0, 0.8))
    for axes, (name, results) in zip(drawn, streams.items(), strict=True):
        tasks, rows = ([plain(each) for each in of(results[0])] for of in (task_names, matrix_rows))
        heat(axes, mean_matrix(results), tasks, rows, 100.0, "{:.0f}")
        axes.set_title(wrapped(name, 30), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", rotation=40)
    figure.supxlabel("accuracy (%) on", fontsize=9)
    figure.supylabel("after learning", fontsize=9)
    figure.suptitle(wrapped(title, 70), fontsize=11)
    return figure


def mean_matrix(results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the mean matrix (rows, tasks), NaN before a task was learned, of the seeds with the tasks of the first."""
    first = results[0]
    values = np.full((len(first["matrix"]), len(first["tasks"])), np.nan)
    shape = task_names(first), [len(row) for row in first["matrix"]]
    alike = [each["matrix"] for each in results if (task_names(each), [len(row) for row in each["matrix"]]) == shape]
    for number, row in enumerate(first["matrix"]):
        values[number, : len(row)] = np.mean([matrix[number] for matrix in alike], axis=0)
    return values


def heat(axes: Any, values: np.ndarray, columns: Sequence[str], rows: Sequence[str], top: float, form: str) -> None:
    """Draw numbers (rows, columns) as a heat map from 0 to `top`, with the numbers in its cells."""
    axes.imshow(values, vmin=0, vmax=top, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    write_numbers(axes, values, form, dark=values > 0.6 * top)
