"""Training curves of all runs of a protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from promptvision.errors import counted
from promptvision.report.figures.losses import Progress, progress
from promptvision.report.figures.panels import training_panels
from promptvision.report.figures.style import Drawing
from promptvision.report.figures.values import figure_title
from promptvision.report.sections import Section
from promptvision.report.tables.over_shots import shot_counts, shots_name

MOST_RUNS = 20
"""Runs in one panel; of more, the panel shows the first seed of each cell."""


def training(section: Section) -> Iterator[Drawing]:
    """Yield the losses and validation accuracies of all runs, a panel per method."""
    rows = {label: progress_of(section, label) for label in dict.fromkeys(row.label for row in section.rows)}
    rows = {label: runs for label, runs in rows.items() if runs}
    if rows:
        name, methods = f"{figure_title(section)}: training", counted(len(rows), "method")
        about = f"Training loss over the steps of every run of {methods}, and validation accuracy if recorded."
        yield Drawing(section.kind, name, about, partial(training_panels, rows, name))


def progress_of(section: Section, label: str) -> list[tuple[str, Progress]]:
    """Return (group, progress) of every trained run of a method; a group is a number of shots or a dataset."""
    cells = sorted((c for row in section.rows if row.label == label for c in row.cells), key=lambda c: c.shots)
    by_shots, by_dataset = len(shot_counts(section)) > 1, len({cell.dataset for cell in cells}) > 1
    seeds = 1 if sum(len(cell.runs) for cell in cells) > MOST_RUNS else None
    found = []
    for cell in cells:
        group = shots_name(cell.shots) if by_shots else cell.dataset if by_dataset else ""
        found += [(group, progress(run)) for run in cell.runs[:seeds]]
    return [(group, each) for group, each in found if len(each.losses) > 1]
