"""How the training of a run went, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
from statistics import mean

from promptvision.report.runs import LARGEST, Run

MOST_POINTS = 100
"""Of one loss curve."""


def losses(run: Run) -> list[tuple[float, float]]:
    """(step, loss) of metrics.jsonl, neighbours averaged; lines that make no sense are passed over."""
    path = run.folder / "metrics.jsonl"
    if not path.is_file() or path.stat().st_size > LARGEST:
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _finite(row.get("step")) and _finite(row.get("loss")):
            found.append((float(row["step"]), float(row["loss"])))
    size = 1 + len(found) // MOST_POINTS
    parts = [found[start : start + size] for start in range(0, len(found), size)]
    return [(mean(step for step, _ in part), mean(loss for _, loss in part)) for part in parts]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
