"""A search over settings as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

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
