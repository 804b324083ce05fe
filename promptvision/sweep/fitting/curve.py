"""The learning curve: accuracy over the number of images per class, and what more images would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from promptvision.sweep.fitting.score import Score, Tried, equals_of
from promptvision.sweep.fitting.study import Study

PARTS = (4, 2)
"""A quarter and a half of the training images of each class."""


@dataclass(frozen=True)
class Point:
    """The score of a candidate that learned from `images` per class, on average."""

    images: int
    score: Score


def cheapest_good(best: Tried, tried: Sequence[Tried]) -> Tried | None:
    """Return the cheapest candidate that learns from images and is within a standard error of the best one."""
    good = [best, *equals_of(best, tried)]
    learning = [each for each in tried if each in good and each.candidate.learns]
    return learning[0] if learning else None


def learning_curve(study: Study, tried: Tried) -> list[Point]:
    """Return the scores of a candidate trained on parts of the images, as far as time allows, and on all of them."""
    per_class = study.per_class
    candidate = replace(tried.candidate, grid={key: [value] for key, value in tried.variant.items()})
    points = []
    for shots in dict.fromkeys(max(1, per_class // part) for part in PARTS):
        found = study.attempt(candidate, shots) if shots < per_class else None
        if found and found.score:
            points.append(Point(shots, found.score))
    assert tried.score
    return [*points, Point(per_class, tried.score)]


def twice_as_many(points: Sequence[Point]) -> float | None:
    """Return the accuracy to expect from twice as many images: the error follows the power law of the last two points.

    None if it did not fall by more than its standard error, or if there is nothing to compare.
    """
    if len(points) < 2:
        return None
    (few, before), (many, now) = ((each.images, each.score) for each in points[-2:])
    if now.accuracy - before.accuracy <= now.error or now.accuracy == 100:
        return None
    power = math.log((100 - now.accuracy) / (100 - before.accuracy)) / math.log(many / few)
    return 100 - (100 - now.accuracy) * 2**power
