"""Figures of one continual run: its accuracy matrix, and the prompts that the images of each task choose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from promptvision.report.figures.matrices import heat, mean_matrix
from promptvision.report.figures.style import pyplot, save
from promptvision.report.names import matrix_rows, task_names


def draw_matrix(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the accuracy matrix as a heat map, a .png or .svg."""
    tasks, rows = task_names(result), matrix_rows(result)
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.8 * len(tasks), 1.2 + 0.6 * len(rows)), layout="constrained")
    heat(axes, mean_matrix([result]), tasks, rows, 100.0, "{:.1f}")
    axes.set(title=f"{result['method']}: accuracy (%)", xlabel="on", ylabel="after learning")
    save(figure, Path(path).with_suffix(""), [Path(path).suffix])


def draw_choices(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the share of each prompt of the pool in the choices of each task (%) as a heat map, a .png or .svg."""
    counts = np.array(result["prompt_choices"], dtype=float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    size = shares.shape[1]
    figure, axes = pyplot.subplots(figsize=(1.8 + 0.5 * size, 1.2 + 0.5 * len(counts)), layout="constrained")
    heat(axes, shares, [str(prompt) for prompt in range(size)], task_names(result), shares.max(), "{:.0f}")
    axes.set(title=f"{result['method']}: prompts chosen (%)", xlabel="prompt", ylabel="images of")
    save(figure, Path(path).with_suffix(""), [Path(path).suffix])
