"""The cost of a run, as timed on a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one run: `seconds` for all but its steps, `step` for each, `validation` for each.

    `batches`: steps of an epoch. `disk` and `disk_per_step` in bytes. `shared`: what is computed once for all runs on
    the same images, as key -> (seconds, bytes). `memory`: the most bytes in use.
    """

    seconds: float
    step: float
    batches: int
    validation: float
    disk: float
    disk_per_step: float
    shared: Mapping[str, tuple[float, float]]
    memory: int
