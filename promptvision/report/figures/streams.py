"""Figures of one continual run: its accuracy matrix, and the prompts that the images of each task choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptvision.report.figures.style import pyplot
from promptvision.report.names import matrix_rows, task_names


def draw_matrix(result: Mapping[str, Any], path: str | Path) -> None:
    """The matrix as a heat map with its numbers, as a .png or .svg."""
    names, matrix = task_names(result), result["matrix"]
    values = np.full((len(matrix), len(names)), np.nan)
    for number, row in enumerate(matrix):
        values[number, : len(row)] = row
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.8 * len(names), 1.2 + 0.6 * len(matrix)), layout="constrained")
    heat(axes, values, names, matrix_rows(result), 100.0, "{:.1f}")
    axes.set(title=f"{result['method']}: accuracy (%)", xlabel="on", ylabel="after learning")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_choices(result: Mapping[str, Any], path: str | Path) -> None:
    """Per cent of a task's choices that fall on each prompt of the pool, as a .png or .svg."""
    counts = np.array(result["prompt_choices"], dtype=float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    size = shares.shape[1]
    figure, axes = pyplot.subplots(figsize=(1.8 + 0.5 * size, 1.2 + 0.5 * len(counts)), layout="constrained")
    heat(axes, shares, [str(prompt) for prompt in range(size)], task_names(result), shares.max(), "{:.0f}")
    axes.set(title=f"{result['method']}: prompts chosen (%)", xlabel="prompt", ylabel="images of")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def heat(axes: Any, values: np.ndarray, columns: Sequence[str], rows: Sequence[str], top: float, form: str) -> None:
    """Numbers (rows, columns) as a map, from nothing to `top`, each written into its place."""
    axes.imshow(values, vmin=0, vmax=top, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value > 0.6 * top else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=8)
