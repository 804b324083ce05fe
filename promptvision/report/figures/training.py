"""How the training of all runs of a protocol went."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from promptvision.report.cells import Cell
from promptvision.report.figures.losses import Progress, progress
from promptvision.report.figures.panels import training_panels
from promptvision.report.figures.style import Drawing
from promptvision.report.kinds import TITLES
from promptvision.report.sections import Section
from promptvision.report.tables.over_shots import shot_counts, shots_name

MOST_RUNS = 20
"""In one panel; beyond these it shows the first seed of each of its numbers."""


def training(section: Section) -> Iterator[Drawing]:
    """The losses and validation accuracies of all runs, a panel for each method."""
    several = len(shot_counts(section)) > 1
    rows: dict[str, list[tuple[str, Progress]]] = {}
    for label in dict.fromkeys(row.label for row in section.rows):
        cells = sorted((c for row in section.rows if row.label == label for c in row.cells), key=lambda c: c.shots)
        found = [each for cell in cells for each in _progress(cell, several, cells)]
        if found:
            rows[label] = found
    if rows:
        title = f"{TITLES[section.kind]}: training"
        about = (
            f"Training loss over the steps of every run of {len(rows)} methods, and validation accuracy if recorded."
        )
        yield Drawing(section.kind, title, about, partial(training_panels, rows, title))


def _progress(cell: Cell, several_shots: bool, peers: list[Cell]) -> Iterator[tuple[str, Progress]]:
    """(what its colour stands for, how it went) of each run."""
    group = shots_name(cell.shots) if several_shots else cell.dataset if len({c.dataset for c in peers}) > 1 else ""
    for run in cell.runs[:1] if sum(len(peer.runs) for peer in peers) > MOST_RUNS else cell.runs:
        found = progress(run)
        if len(found.losses) > 1:
            yield group, found
