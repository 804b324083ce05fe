"""One number of a table: what several seeds gave, their mean, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.special import stdtrit


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean, t(0.975, n - 1) s / sqrt(n) (Student 1908); None of a single value."""
    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n) if n > 1 else None


@dataclass(frozen=True)
class Score:
    """`mean`, None where the values may not be averaged; `half`, half of its 95 % interval, None if unknown; `values`,
    {seed: value}; `missing`, how many data sets an average lacks."""

    mean: float | None
    half: float | None
    values: Mapping[int, float]
    missing: int = 0

    def __str__(self) -> str:
        if self.mean is None:
            return " | ".join(f"{value:.1f}" for value in self.values.values())
        spread = "" if self.half is None else f" ± {self.half:.1f}"
        return f"{self.mean:.1f}{spread}{'*' if self.missing else ''}"


def over_seeds(values: Mapping[int, float], comparable: bool = True) -> Score:
    """The score of {seed: value}; `comparable`: whether all seeds were tested on the same images."""
    if not comparable:
        return Score(None, None, values)
    return Score(mean(values.values()), half_width(list(values.values())), values)


def average(scores: Iterable[Score], of: int) -> Score | None:
    """The mean over data sets, as the papers take it, of those that are here; `of`: how many there should be.

    Its interval is that of the averages of each seed, so it is unknown where data sets were run with other seeds.
    """
    found = [score for score in scores if score.mean is not None]
    if not found:
        return None
    seeds = set(found[0].values)
    paired = all(set(score.values) == seeds for score in found)
    each = {seed: mean(score.values[seed] for score in found) for seed in seeds} if paired else {}
    means = [score.mean for score in found if score.mean is not None]
    return Score(mean(means), half_width(list(each.values())) if each else None, each, max(0, of - len(found)))


def harmonic(base: Score, new: Score) -> Score | None:
    """H of the mean over seeds of base and that of new, as CoCoOp takes it (arXiv:2203.05557, table 1), also of
    averages over data sets; its interval is that of the H of each seed."""
    if base.mean is None or new.mean is None:
        return None
    each = {seed: _harmonic(value, new.values[seed]) for seed, value in base.values.items() if seed in new.values}
    half = half_width(list(each.values())) if each.keys() == base.values.keys() == new.values.keys() else None
    return Score(_harmonic(base.mean, new.mean), half, each, max(base.missing, new.missing))


def _harmonic(base: float, new: float) -> float:
    return 2 * base * new / (base + new) if base + new else 0.0
