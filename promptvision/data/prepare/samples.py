"""A few images of each class, for looking at."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from promptvision.data.images import Images, Item

SIDE = 200
"""Longer side of a sample in pixels."""


def samples(images: Images, classes: int, each: int) -> tuple[list[tuple[str, list[Image.Image]]], int]:
    """The first `each` images of up to `classes` classes, evenly spread over the labels; and how many there are.

    Training images come first, then those of val and test.
    """
    groups: dict[int, list[Item]] = {}
    for item in (*images.train, *images.val, *images.test):
        groups.setdefault(item[1], []).append(item)
    labels = sorted(groups)
    chosen = [labels[place * len(labels) // classes] for place in range(classes)] if classes < len(labels) else labels
    rows = [(groups[label][0][2], list(_open(images, groups[label][:each]))) for label in chosen]
    return rows, len(labels)


def _open(images: Images, items: list[Item]) -> Iterator[Image.Image]:
    for path, _, _ in items:
        image = images.open(path)
        image.thumbnail((SIDE, SIDE))
        yield image
