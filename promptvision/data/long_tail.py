"""Long-tailed training images: many of the first classes, few of the last."""

from __future__ import annotations

import random
from collections.abc import Sequence

from promptvision.data.images import Item
from promptvision.errors import InputError, unknown

SHAPES = ("exponential", "step")
"""Ways in which class sizes fall from the first class to the last."""

ROUNDING = 1e-9
"""Added before rounding down: a quotient may be just below the whole number that it is."""


def class_sizes(most: int, classes: int, imbalance: float, shape: str = "exponential") -> list[int]:
    """Return the size of each class: `most` of the first, most / `imbalance` of the last, rounded down, at least one.

    "exponential": most * imbalance^(-c / (classes - 1)) images of class c (Cui et al., arXiv:1901.05555, section 4.1);
    "step": the first half of the classes has the most, the other half the fewest (Buda et al., arXiv:1710.05381; with
    an odd number of classes, the middle one has the fewest). Both as in kaidic/LDAM-DRW.
    """
    if shape not in SHAPES:
        raise unknown("shape of the imbalance", shape, SHAPES)
    if imbalance < 1:
        raise InputError(f"the imbalance, largest over smallest class, must be at least 1, not {imbalance:g}")
    if shape == "step":
        places = [float(c >= max(classes // 2, 1)) for c in range(classes)]
    else:
        places = [c / max(classes - 1, 1) for c in range(classes)]
    return [max(1, int(most * imbalance**-place + ROUNDING)) for place in places]


def long_tailed(
    items: Sequence[Item], classes: int, imbalance: float, seed: int, shape: str = "exponential"
) -> list[Item]:
    """Return `items` thinned to `class_sizes`, with the largest class as `most`; in their order.

    The images that a class keeps are drawn from `seed`; with less imbalance it keeps these and more. A class with
    fewer images than its size keeps all.
    """
    own: list[list[int]] = [[] for _ in range(classes)]
    for number, (_, label, _) in enumerate(items):
        own[label].append(number)
    sizes = class_sizes(max(map(len, own), default=0), classes, imbalance, shape)
    stream, kept = random.Random(seed), set()
    for numbers, size in zip(own, sizes, strict=True):
        kept.update(stream.sample(numbers, len(numbers))[:size])
    return [item for number, item in enumerate(items) if number in kept]
