"""A few pictures of each class, for looking at."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from promptvision.data.images import Item, Pictures

SIDE = 200
"""Longer side of a sample in pixels."""


def samples(pictures: Pictures, classes: int, each: int) -> tuple[list[tuple[str, list[Image.Image]]], int]:
    """The first `each` pictures of up to `classes` classes, evenly spread over the labels; and how many there are.

    Training pictures come first, then those of val and test.
    """
    groups: dict[int, list[Item]] = {}
    for item in (*pictures.train, *pictures.val, *pictures.test):
        groups.setdefault(item[1], []).append(item)
    labels = sorted(groups)
    chosen = [labels[place * len(labels) // classes] for place in range(classes)] if classes < len(labels) else labels
    rows = [(groups[label][0][2], list(_open(pictures, groups[label][:each]))) for label in chosen]
    return rows, len(labels)


def _open(pictures: Pictures, items: list[Item]) -> Iterator[Image.Image]:
    for path, _, _ in items:
        picture = pictures.open(path)
        picture.thumbnail((SIDE, SIDE))
        yield picture
