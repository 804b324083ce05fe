"""Numbers from the predictions of a run: intervals, calibration, confused classes, and labels that look wrong."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from promptvision.engine.results.predictions_file import Predicted

Z = 1.959964
"""The 0.975 quantile of the normal distribution: intervals of 95 %."""
BINS = 15
"""Bins of the confidence, those of `ece` in result.json."""


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `hits` in `n` images (Wilson 1927), both ends from 0 to 1.

    (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n) with p = hits/n and z = 1.96.
    """
    share, squared = hits / n, Z * Z / n
    half = Z * math.sqrt(share * (1 - share) / n + squared / (4 * n))
    low, high = ((share + squared / 2 + sign * half) / (1 + squared) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is in one bin: their number, mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration(predictions: Sequence[Predicted]) -> list[Bin]:
    """Return the equal bins of the confidence that hold images, the lowest first; the last includes 1."""
    edges = [number / BINS for number in range(BINS + 1)]
    placed = defaultdict[int, list[Predicted]](list)
    for each in predictions:
        placed[min(bisect_right(edges, each.probability), BINS) - 1].append(each)
    return [
        Bin(
            edges[place],
            edges[place + 1],
            len(some),
            fmean(each.probability for each in some),
            fmean(each.prediction == each.label for each in some),
        )
        for place, some in sorted(placed.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean of |accuracy - confidence| of the bins, weighted by images."""
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / sum(each.count for each in bins)


def confusions(predictions: Sequence[Predicted]) -> Counter[tuple[int, int]]:
    """Return {(label, prediction): number of images}."""
    return Counter((each.label, each.prediction) for each in predictions)


def confident_mistakes(predictions: Sequence[Predicted]) -> list[Predicted]:
    """Return the wrong predictions, the most probable first."""
    wrong = (each for each in predictions if each.prediction != each.label)
    return sorted(wrong, key=lambda each: -each.probability)


def thresholds(predictions: Sequence[Predicted]) -> dict[int, float]:
    """Return {class: its mean probability over the images with its label} (Northcutt et al. 2021, arXiv:1911.00068)."""
    known = defaultdict[int, list[float]](list)
    for each in predictions:
        known[each.label].append(each.label_probability)
    return {label: fmean(values) for label, values in known.items()}


@dataclass(frozen=True)
class Doubt:
    """An image whose label looks wrong: `guess`, the class it seems to be, with its probability and threshold."""

    of: Predicted
    guess: int
    probability: float
    threshold: float


def doubtful_labels(predictions: Sequence[Predicted]) -> list[Doubt]:
    """Return the images off the diagonal of the confident joint, those first whose label is the least probable.

    An image counts for the most probable class j with p_j >= t_j, `thresholds`, among its label and the classes that
    predictions.csv holds (equation 1 of arXiv:1911.00068); its label looks wrong if that is another class. The order is
    that of p_j - p_label.
    """
    limits, found = thresholds(predictions), list[Doubt]()
    for each in predictions:
        known: Mapping[int, float] = {each.label: each.label_probability, **each.top}
        sure = [number for number, value in known.items() if value >= limits.get(number, math.inf)]
        guess = max(sure, key=lambda number: known[number], default=each.label)
        if guess != each.label:
            found.append(Doubt(each, guess, known[guess], limits[guess]))
    return sorted(found, key=lambda doubt: doubt.of.label_probability - doubt.probability)
