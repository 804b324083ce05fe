"""Spearman's rank correlation over methods, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 4
"""Methods below which no correlation is given: of three, one ranking in six is the same by chance."""
RESAMPLES = 10_000
SEED = 1


@dataclass(frozen=True)
class Correlation:
    """Spearman's `rho` of `n` methods and its 95 % interval from `low` to `high`; all None for fewer than LEAST methods
    and where all values of one side are equal."""

    n: int
    rho: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.rho is None:
            return f"unknown (n = {self.n})"
        return f"{self.rho:.2f}, 95 % {self.low:.2f} to {self.high:.2f} (n = {self.n})"


def correlate(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return the rank correlation of two values of each method (Spearman 1904), equal values sharing their mean rank.

    The interval is a percentile bootstrap (Efron 1979): RESAMPLES draws of n methods with replacement, the same draws
    in every call. Draws in which all values of one side are equal have no correlation and are left out.
    """
    n = len(first)
    if n < LEAST or len(set(first)) == 1 or len(set(second)) == 1:
        return Correlation(n)
    import numpy as np  # a second with scipy.stats, which `--help` need not spend
    from scipy.stats import rankdata, spearmanr

    picks = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    ranks = [rankdata(np.asarray(values)[picks], axis=1) - (n + 1) / 2 for values in (first, second)]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    found = (ranks[0] * ranks[1]).sum(axis=1)[spread > 0] / spread[spread > 0]
    low, high = np.percentile(found, [2.5, 97.5])
    return Correlation(n, float(spearmanr(first, second).statistic), float(low), float(high))
