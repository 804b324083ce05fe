"""The rows of metrics.jsonl."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from promptvision.atomic import parse_json, read_bytes
from promptvision.errors import InputError

LOG = logging.getLogger(__name__)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, none if it does not exist.

    A last line that a crash cut off is skipped, and so are lines that are damaged, of which a warning tells.
    """
    rows, damaged = [], 0
    lines = read_bytes(path).split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        row = None
        with suppress(InputError):
            row = parse_json(line, "row")
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
        else:
            damaged += number < len(lines)
    if damaged:
        LOG.warning("%s: damaged lines are left out: %d", path, damaged)
    return rows


def scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Flatten a row to (name, value) pairs, without step, epoch and seconds; nested keys become `outer/inner`."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "epoch", "seconds"):
            found.append((f"{prefix}{name}", value))
    return found
