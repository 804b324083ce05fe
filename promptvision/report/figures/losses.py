"""Losses and validation accuracies of a run's training, from its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from promptvision.atomic import parse_json
from promptvision.errors import InputError
from promptvision.report.collect import Run

MOST_POINTS = 30
"""Points of one curve."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Progress:
    """Curves over the per cent of the training's steps: loss, and validation accuracy in per cent."""

    losses: Points
    validation: Points


def progress(run: Run) -> Progress:
    """Return the curves of a run; neighbouring points are averaged, damaged lines are skipped."""
    losses, validation = list[tuple[float, float]](), list[tuple[float, float]]()
    for row in _rows(run):
        found = row.get("val")
        if _is_number(row.get("loss")):
            losses.append((row["step"], float(row["loss"])))
        if isinstance(found, dict) and _is_number(found.get("accuracy")):
            validation.append((row["step"], float(found["accuracy"])))
    last = max((step for step, _ in losses), default=0.0) or 1.0
    return Progress(_thinned(losses, last), _thinned(validation, last))


def _rows(run: Run) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of metrics.jsonl that have a step; in a stream those of its tasks, one after the other."""
    tasks = [run.folder / f"task_{number}" for number in range(1, 1 + len(run.result.get("tasks", ())))]
    before = 0.0
    for path in (folder / "metrics.jsonl" for folder in [run.folder, *tasks]):
        step = 0.0
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
            try:
                row = parse_json(line, "row")
            except InputError:
                continue
            if isinstance(row, dict) and _is_number(row.get("step")):
                step = float(row["step"])
                yield {**row, "step": before + step}
        before += step


def _thinned(points: Points, last: float) -> Points:
    """Average neighbours until MOST_POINTS are left; steps become per cent of `last`."""
    size = 1 + len(points) // MOST_POINTS
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(100 * mean(step for step, _ in group) / last, mean(value for _, value in group)) for group in groups]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30  # what an axis can show; not NaN
