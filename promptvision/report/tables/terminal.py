"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from promptvision.report.comparable import Cells, averageable, footnotes, notes
from promptvision.report.kinds import MEASURES
from promptvision.report.names import matrix_rows, task_names

COLUMNS = {
    "accuracy": "accuracy",
    "per_class_mean": "per class",
    "macro_f1": "macro F1",
    "ece": "ECE",
}
"""Keys of result.json that are in per cent, and what a table calls them."""


def run_table(result: Mapping[str, Any], title: str = "") -> Table:
    """One run: its scores in per cent, what it learned and how long it took."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for key, name in COLUMNS.items():
        table.add_row(name, f"{result[key]:.1f}")
    table.add_row(f"{result['split']} images", f"{result['n']:,}")
    if notes({"": [result]})[""]:
        table.add_row("selected on", "its test images")
    table.add_row("learned parameters", f"{result['learned_parameters']:,}")
    if "seconds" in result:
        table.add_row("seconds of training", f"{result['seconds']:.1f}")
    return table


def seeds_table(cells: Cells, title: str = "") -> Table:
    """One row per cell, a list of results that differ in their seed: mean and deviation of the scores in per cent.

    `share` is that of the learned parameters in the backbone's. Footnotes tell which rows saw other images than
    their protocol's other rows. Runs of one row that were tested on different images are not averaged.
    """
    names, caption = footnotes(notes(cells))
    sides = {"title_justify": "left", "caption_justify": "left", "pad_edge": False, "collapse_padding": True}
    table = Table(title=title, caption=caption or None, box=SIMPLE_HEAD, **sides)  # type: ignore[arg-type]
    table.add_column("method")
    for name in ("accuracy", "ECE", "seeds", "learned", "share", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, results in cells.items():
        told = mean_and_deviation if averageable(results) else apart
        scores = [told([result[key] for result in results]) for key in ("accuracy", "ece")]
        seconds = sum(result["seconds"] for result in results) / len(results)
        learned = results[0]["learned_parameters"]
        share = f"{100 * learned / results[0]['backbone_parameters']:.2f} %"
        table.add_row(names[name], *scores, str(len(results)), f"{learned:,}", share, f"{seconds:.1f}")
    return table


def mean_and_deviation(values: Sequence[float]) -> str:
    """`61.2 ± 1.3`, the sample deviation; a single value stands alone."""
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def apart(values: Sequence[float]) -> str:
    """Numbers that may not be averaged: `61.2 | 58.3`."""
    return " | ".join(f"{value:.1f}" for value in values)


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
    """One row per image: its most likely classes with their probabilities."""
    table = Table()
    table.add_column("image")
    table.add_column("most likely")
    for row in rows:
        guesses = (f"{guess['class']} {100 * guess['probability']:.1f} %" for guess in row["top"])
        table.add_row(row["picture"], ", ".join(guesses))
    return table


def matrix_table(result: Mapping[str, Any], title: str = "") -> Table:
    """Accuracy on each task, after each task (the only row of a joint run is after all of them)."""
    names = task_names(result)
    table = Table(title=title, title_justify="left")
    table.add_column("after learning")
    for name in names:
        table.add_column(name, justify="right")
    for label, row in zip(matrix_rows(result), result["matrix"], strict=True):
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
