"""Validation accuracies of a search over two settings as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptvision.report.figures.style import pyplot, save, write_numbers


def draw_search(rows: Sequence[Mapping[str, Any]], path: str | Path) -> list[Path]:
    """Write the accuracies over two searched keys as `path`.png and .svg; draw nothing for other searches.

    A row holds {"setting": {key: value}, "accuracy": per cent or None}.
    """
    keys = list(rows[0]["setting"])
    if len(keys) != 2:
        return []
    ticks = [sorted({row["setting"][key] for row in rows}) for key in keys]
    grid = np.full((len(ticks[1]), len(ticks[0])), np.nan)
    for row in rows:
        x, y = (axis.index(row["setting"][key]) for axis, key in zip(ticks, keys, strict=True))
        grid[y, x] = np.nan if row["accuracy"] is None else row["accuracy"]
    figure, axes = pyplot.subplots(figsize=(1.5 + 0.7 * len(ticks[0]), 1.2 + 0.6 * len(ticks[1])), layout="constrained")
    axes.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    middle = np.nanmean([np.nanmin(grid), np.nanmax(grid)])
    write_numbers(axes, grid, "{:.0f}", dark=grid <= middle, size=10)
    axes.set_xticks(range(len(ticks[0])), [f"{value:g}" for value in ticks[0]])
    axes.set_yticks(range(len(ticks[1])), [f"{value:g}" for value in ticks[1]])
    axes.set(xlabel=keys[0], ylabel=keys[1], title="validation accuracy (%)")
    return save(figure, path)
