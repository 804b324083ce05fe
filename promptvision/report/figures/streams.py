"""A continual run as a table and as drawings: what it knew after each task, and which prompts each task takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from promptvision.report.figures.style import pyplot

MEASURES = {
    "average_accuracy": "average accuracy",
    "incremental_accuracy": "accuracy over the stream",
    "learning_accuracy": "accuracy when just learned",
    "forgetting": "forgetting",
    "forgetting_official": "forgetting, official formula",
    "backward_transfer": "backward transfer",
    "accuracy": "accuracy over all images",
}
"""Keys of a stream's result.json that are in per cent, and what a table calls them."""


def matrix_table(result: Mapping[str, Any], title: str = "") -> Table:
    """Accuracy on each task, after each task (the only row of a joint run is after all of them)."""
    names = _names(result)
    table = Table(title=title, title_justify="left")
    table.add_column("after learning")
    for name in names:
        table.add_column(name, justify="right")
    for label, row in zip(task_rows(result), result["matrix"], strict=True):
        table.add_row(label, *(f"{accuracy:.1f}" for accuracy in row))
    return table


def measures_table(result: Mapping[str, Any]) -> Table:
    """The measures of the matrix in per cent, and what the run took."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for key, name in MEASURES.items():
        if result.get(key) is not None:
            table.add_row(name, f"{result[key]:.1f}")
    for name, accuracy in result.get("average_accuracy_by_choice", {}).items():
        table.add_row(f"average accuracy, prompts chosen per {name}", f"{accuracy:.1f}")
    table.add_row("learned parameters", f"{result['learned_parameters']:,}")
    table.add_row("seconds of training", f"{result['seconds']:.1f}")
    return table


def draw_matrix(result: Mapping[str, Any], path: str | Path) -> None:
    """The matrix as a heat map with its numbers, as a .png or .svg."""
    names, matrix = _names(result), result["matrix"]
    values = np.full((len(matrix), len(names)), np.nan)
    for number, row in enumerate(matrix):
        values[number, : len(row)] = row
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.8 * len(names), 1.2 + 0.6 * len(matrix)), layout="constrained")
    heat(axes, values, names, task_rows(result), 100.0, "{:.1f}")
    axes.set(title=f"{result['method']}: accuracy (%)", xlabel="on", ylabel="after learning")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_choices(result: Mapping[str, Any], path: str | Path) -> None:
    """Per cent of a task's choices that fall on each prompt of the pool, as a .png or .svg."""
    counts = np.array(result["prompt_choices"], dtype=float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    size = shares.shape[1]
    figure, axes = pyplot.subplots(figsize=(1.8 + 0.5 * size, 1.2 + 0.5 * len(counts)), layout="constrained")
    heat(axes, shares, [str(prompt) for prompt in range(size)], _names(result), shares.max(), "{:.0f}")
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


def _names(result: Mapping[str, Any]) -> list[str]:
    return [task["name"] for task in result["tasks"]]


def task_rows(result: Mapping[str, Any]) -> list[str]:
    """What the rows of the matrix are called."""
    return ["all tasks"] if result["continual"]["JOINT"] else _names(result)
