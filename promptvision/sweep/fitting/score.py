"""Accuracies on held-out images, and the choice by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptvision.sweep.fitting.candidates import Candidate
from promptvision.sweep.jobs import Result


@dataclass(frozen=True)
class Score:
    """An accuracy in per cent over a number of held-out `images`, with its standard `error`."""

    accuracy: float
    error: float
    images: int


@dataclass(frozen=True)
class Tried:
    """A candidate, the variant of it that is best on held-out images, its score and the seconds that all took.

    `note`: why it has no score, or why not all variants were tried.
    """

    candidate: Candidate
    variant: Mapping[str, Any]
    score: Score | None = None
    seconds: float = 0.0
    note: str = ""


def score_of(results: Sequence[Result]) -> Score:
    """Return the accuracy over the held-out images of all runs.

    Its error counts two hits and two misses more (Agresti and Coull 1998): 20 of 20 images are not certainty.
    """
    images = sum(result["n"] for result in results)
    hits = sum(result["accuracy"] / 100 * result["n"] for result in results)
    share = (hits + 2) / (images + 4)
    return Score(100 * hits / images, 100 * math.sqrt(share * (1 - share) / (images + 4)), images)


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """Return the candidate of the highest accuracy, among equals the first, which is the cheapest."""
    return max((each for each in tried if each.score), key=lambda each: each.score.accuracy, default=None)  # type: ignore[union-attr]


def equals_of(best: Tried, tried: Sequence[Tried]) -> list[Tried]:
    """Return the other candidates within a standard error of the best."""
    assert best.score
    least = best.score.accuracy - best.score.error
    return [each for each in tried if each is not best and each.score and each.score.accuracy >= least]
