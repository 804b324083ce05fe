"""How the training of a run went, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from promptvision.report.collect import LARGEST, Run

MOST_POINTS = 30
"""Of one curve."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Progress:
    """(per cent of the training's steps, loss) and (the same, validation accuracy in per cent), neighbours averaged."""

    losses: Points
    validation: Points


def progress(run: Run) -> Progress:
    """The curves of metrics.jsonl; lines that make no sense are passed over."""
    losses, validation = list[tuple[float, float]](), list[tuple[float, float]]()
    for row in _rows(run):
        found = row.get("val")
        if _finite(row.get("loss")):
            losses.append((row["step"], float(row["loss"])))
        if isinstance(found, dict) and _finite(found.get("accuracy")):
            validation.append((row["step"], float(found["accuracy"])))
    last = max((step for step, _ in losses), default=0.0) or 1.0
    return Progress(_thinned(losses, last), _thinned(validation, last))


def _rows(run: Run) -> Iterator[Mapping[str, Any]]:
    """The lines of metrics.jsonl; of a stream those of its tasks, one after another."""
    tasks = [run.folder / f"task_{number}" for number in range(1, 1 + len(run.result.get("tasks", ())))]
    before = 0.0
    for folder in [run.folder, *tasks]:
        step = 0.0
        for row in _lines(folder / "metrics.jsonl"):
            step = float(row["step"])
            yield {**row, "step": before + step}
        before += step


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Those that tell a step."""
    if not path.is_file() or path.stat().st_size > LARGEST:
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _finite(row.get("step")):
            yield row


def _thinned(points: Points, last: float) -> Points:
    size = 1 + len(points) // MOST_POINTS
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(100 * mean(step for step, _ in part) / last, mean(value for _, value in part)) for part in parts]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
