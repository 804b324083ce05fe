"""Long-tailed training images: many of the first classes, few of the last."""

from __future__ import annotations

import random
from collections.abc import Sequence

from promptvision.data.images import Item
from promptvision.errors import InputError, unknown

SHAPES = ("exponential", "step")
"""How numbers fall from the first class to the last."""

ROUNDING = 1e-9
"""So that a quotient that is whole but for floating point is not rounded down."""


def class_sizes(most: int, classes: int, imbalance: float, shape: str = "exponential") -> list[int]:
    """Images of each class, `most` of the first and most / `imbalance` of the last, rounded down, at least one.

    "exponential": most * imbalance^(-c / (classes - 1)) of class c (Cui et al., arXiv:1901.05555, section 4.1);
    "step": the first half of the classes has the most, the other half the fewest (Buda et al., arXiv:1710.05381; of an
    odd number, the middle class has the fewest). Both as in kaidic/LDAM-DRW.
    """
    if shape not in SHAPES:
        raise unknown("shape of the imbalance", shape, SHAPES)
    if imbalance < 1:
        raise InputError(f"an imbalance is the largest class over the smallest, at least 1, not {imbalance:g}")
    if shape == "step":
        places = [float(c >= max(classes // 2, 1)) for c in range(classes)]
    else:
        places = [c / max(classes - 1, 1) for c in range(classes)]
    return [max(1, int(most * imbalance**-place + ROUNDING)) for place in places]


def long_tailed(
    items: Sequence[Item], classes: int, imbalance: float, seed: int, shape: str = "exponential"
) -> list[Item]:
    """`items`, thinned to `class_sizes` of the largest class, class 0 keeping the most; in their order.

    Which images of a class stay is drawn from `seed`, and the same ones stay when the imbalance falls. A class that
    is smaller than its size keeps all.
    """
    own: list[list[int]] = [[] for _ in range(classes)]
    for number, (_, label, _) in enumerate(items):
        own[label].append(number)
    sizes = class_sizes(max(map(len, own), default=0), classes, imbalance, shape)
    stream, kept = random.Random(seed), set()
    for numbers, size in zip(own, sizes, strict=True):
        kept.update(stream.sample(numbers, len(numbers))[:size])
    return [item for number, item in enumerate(items) if number in kept]
