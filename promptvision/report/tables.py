"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

COLUMNS = {
    "accuracy": "accuracy",
    "per_class_mean": "per class",
    "macro_f1": "macro F1",
    "ece": "ECE",
}
"""Keys of result.json that are in per cent, and what a table calls them."""


def results_table(results: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """One row per run, by name: scores in per cent, learned parameters, seconds of training."""
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    for name in (*COLUMNS.values(), "pictures", "learned", "seconds"):
        table.add_column(name, justify="right")
    for name, result in results.items():
        scores = [f"{result[key]:.1f}" for key in COLUMNS]
        seconds = f"{result['seconds']:.1f}" if "seconds" in result else "–"
        table.add_row(name, *scores, f"{result['n']}", f"{result['learned_parameters']:,}", seconds)
    return table


def worst_classes(result: Mapping[str, Any], most: int = 5) -> Table:
    """The classes with the lowest accuracy, if there are enough classes to choose from."""
    table = Table(title="hardest classes", title_justify="left")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    seen = [(a, name) for name, a in zip(result["classes"], result["per_class"], strict=True) if a is not None]
    for accuracy, name in sorted(seen)[:most]:
        table.add_row(name, f"{accuracy:.1f}")
    return table


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per picture: its most likely classes with their probabilities."""
    table = Table()
    table.add_column("picture")
    table.add_column("most likely")
    for row in rows:
        guesses = (f"{guess['class']} {100 * guess['probability']:.1f} %" for guess in row["top"])
        table.add_row(row["picture"], ", ".join(guesses))
    return table
