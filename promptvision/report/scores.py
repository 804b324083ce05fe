"""Scores of a table: values over seeds with their mean, deviation and interval; averages and H of scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, harmonic_mean, stdev

WIDE = 5.0
"""Deviation over seeds, in per cent, up to which seeds are never said to differ widely."""


@dataclass(frozen=True)
class Score:
    """One number of a table.

    `mean` is None where the values may not be averaged; `values`, {seed: value}, is empty where the mean is not one
    over seeds; `missing` is the number of datasets that an average lacks; `images`, that of the test images if the
    score is a share of them, else 0.
    """

    mean: float | None
    values: Mapping[int, float]
    missing: int = 0
    images: int = 0

    @property
    def deviation(self) -> float | None:
        """Return the sample deviation over seeds; None for a single value."""
        return stdev(self.values.values()) if self.mean is not None and len(self.values) > 1 else None

    @property
    def half(self) -> float | None:
        """Return half of the 95 % interval of the mean, t(0.975, n - 1) s / sqrt(n) (Student 1908)."""
        if self.deviation is None:
            return None
        from scipy.special import stdtrit  # takes as long to import as all other modules of a terminal's tables

        n = len(self.values)
        return float(stdtrit(n - 1, 0.975)) * self.deviation / math.sqrt(n)

    @property
    def noise(self) -> float | None:
        """Return half of the 95 % interval: over seeds, or of a single seed over the choice of its test images, 1.96
        sqrt(p (100 - p) / images); None if neither is known."""
        if self.half is None and self.mean is not None and self.images:
            return 1.96 * math.sqrt(max(0.0, self.mean * (100 - self.mean)) / self.images)
        return self.half

    def ties(self, other: Score) -> bool:
        """Return whether the difference from another mean is at most sqrt(a² + b²) of their noises a and b."""
        if self.mean is None or other.mean is None or self.noise is None or other.noise is None:
            return False
        return abs(self.mean - other.mean) <= math.hypot(self.noise, other.noise)

    def __str__(self) -> str:
        if self.mean is None:
            return " | ".join(f"{value:.2f}" for value in self.values.values())
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}{'*' if self.missing else ''}"

    def differs_widely(self, images: int) -> bool:
        """Return whether seeds differ by far more than the choice of `images` test images explains.

        The deviation exceeds WIDE and three times the binomial noise of one accuracy, sqrt(p (1 - p) / images).
        """
        if self.mean is None or self.deviation is None:
            return False
        noise = math.sqrt(max(0.0, self.mean * (100 - self.mean)) / max(images, 1))
        return self.deviation > max(WIDE, 3 * noise)


def over_seeds(values: Mapping[int, float], comparable: bool = True, images: int = 0) -> Score:
    """Return the score of {seed: value}, without a mean unless all seeds were tested on the same images."""
    return Score(fmean(values.values()) if comparable else None, values, images=images)


def average(scores: Iterable[Score], of: int) -> Score | None:
    """Average scores over datasets, as the papers do; `of` is the number of datasets that there should be.

    The values are the average of each seed, unless datasets were run with different seeds.
    """
    found = [score for score in scores if score.mean is not None]
    if not found:
        return None
    seeds = found[0].values
    paired = all(score.values.keys() == seeds.keys() for score in found)
    each = {seed: fmean(score.values[seed] for score in found) for seed in seeds if paired}
    missing = max(0, of - len(found)) + sum(score.missing for score in found)
    return Score(fmean(score.mean for score in found if score.mean is not None), each, missing)


def harmonic(base: Score, new: Score) -> Score | None:
    """Return H of the mean over seeds of base and that of new, as CoCoOp takes it (arXiv:2203.05557, table 1).

    The same holds for averages over datasets. The values are the H of each seed, if both were run with the same seeds.
    """
    if base.mean is None or new.mean is None:
        return None
    paired = base.values.keys() == new.values.keys()
    each = {seed: harmonic_mean([value, new.values[seed]]) for seed, value in base.values.items() if paired}
    return Score(harmonic_mean([base.mean, new.mean]), each, max(base.missing, new.missing))
