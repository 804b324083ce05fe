"""A few images of each class, to look at."""

from __future__ import annotations

from PIL import Image

from promptvision.data.images import Images, Item

SIDE = 200
"""Longer side of a sample in pixels."""


def samples(images: Images, classes: int, each: int) -> tuple[list[tuple[str, list[Image.Image]]], int]:
    """Return the first `each` images of up to `classes` classes, evenly spread over the labels, and the class count.

    Training images come first, then those of val and test.
    """
    groups: dict[int, list[Item]] = {}
    for item in (*images.train, *images.val, *images.test):
        groups.setdefault(item[1], []).append(item)
    labels = sorted(groups)
    rows = []
    for label in [labels[n * len(labels) // classes] for n in range(classes)] if classes < len(labels) else labels:
        opened = [images.open(path) for path, _, _ in groups[label][:each]]
        for image in opened:
            image.thumbnail((SIDE, SIDE))
        rows.append((groups[label][0][2], opened))
    return rows, len(labels)
