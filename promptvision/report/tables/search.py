"""A search over settings as a table, and as a map of its validation accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402 - the backend must be chosen first
from matplotlib import pyplot  # noqa: E402
from rich.table import Table  # noqa: E402

Row = Mapping[str, Any]
"""{"setting": {key: value}, "accuracy": per cent or None, "pruned": epochs or 0}"""


def search_table(rows: Sequence[Row], chosen: Mapping[str, Any]) -> Table:
    """One line per setting, the best first, the chosen one marked."""
    table = Table(title="validation accuracy", title_justify="left")
    for key in chosen:
        table.add_column(key.rpartition(".")[2], justify="right")
    table.add_column("accuracy", justify="right")
    for row in sorted(rows, key=lambda row: -1.0 if row["accuracy"] is None else row["accuracy"], reverse=True):
        style = "bold" if row["setting"] == chosen else None
        table.add_row(*(f"{value:g}" for value in row["setting"].values()), _outcome(row), style=style)
    return table


def _outcome(row: Row) -> str:
    if row["accuracy"] is not None:
        return f"{row['accuracy']:.1f}"
    return f"pruned after {row['pruned']} epochs" if row["pruned"] else "diverged"


def draw_search(rows: Sequence[Row], path: str | Path) -> list[Path]:
    """The accuracies over two searched keys as a map, `path`.png and .svg; nothing is drawn of other searches."""
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
    _numbers(axes, grid)
    axes.set_xticks(range(len(ticks[0])), [f"{value:g}" for value in ticks[0]])
    axes.set_yticks(range(len(ticks[1])), [f"{value:g}" for value in ticks[1]])
    axes.set(xlabel=keys[0], ylabel=keys[1], title="validation accuracy (%)")
    paths = [Path(f"{path}{suffix}") for suffix in (".png", ".svg")]
    for target in paths:
        figure.savefig(target, dpi=150)
    pyplot.close(figure)
    return paths


def _numbers(axes: Any, grid: Any) -> None:
    """Each cell's number, dark on light cells and light on dark ones."""
    middle = np.nanmean([np.nanmin(grid), np.nanmax(grid)])
    for (y, x), value in np.ndenumerate(grid):
        text = "-" if np.isnan(value) else f"{value:.0f}"
        axes.text(x, y, text, ha="center", va="center", color="black" if value > middle else "white")
