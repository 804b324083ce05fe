"""The rows of metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, none if there is no such file; what a crash left of a line is passed over."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for line in lines if (row := _parsed(line))]


def scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The curves in a row: its numbers but for where and when, those of nested dicts as `outer/inner`."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "epoch", "seconds"):
            found.append((f"{prefix}{name}", value))
    return found


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
