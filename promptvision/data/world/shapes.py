"""Thirty-six shapes as outlines, the last twelve close kinds of others, and their signed-distance templates."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

Part = tuple[str, str, tuple[float, ...]]

REACH = 1.25
"""A template covers [-REACH, REACH] in both directions; every outline is within [-1, 1]."""

BELL = (-0.15, -0.78, 0.15, -0.78, 0.42, -0.35, 0.5, 0.2, 0.78, 0.5, -0.78, 0.5, -0.5, 0.2, -0.42, -0.35)
BOLT = (0.2, -0.9, -0.5, 0.15, -0.05, 0.15, -0.25, 0.9, 0.5, -0.25, 0.08, -0.25, 0.45, -0.9)
DAISY: tuple[Part, ...] = tuple(
    ("add", "ellipse", (0.62 * np.cos(turn), 0.62 * np.sin(turn), 0.2, 0.2)) for turn in np.arange(9) * 2 * np.pi / 9
)
OUTLINES: dict[str, tuple[Part, ...]] = {
    "circle": (("add", "ellipse", (0, 0, 0.8, 0.8)),),
    "square": (("add", "polygon", (-0.7, -0.7, 0.7, -0.7, 0.7, 0.7, -0.7, 0.7)),),
    "triangle": (("add", "polygon", (0, -0.8, 0.85, 0.65, -0.85, 0.65)),),
    "star": (("add", "star", (5, 0.95, 0.4)),),
    "heart": (
        ("add", "ellipse", (-0.4, -0.3, 0.45, 0.42)),
        ("add", "ellipse", (0.4, -0.3, 0.45, 0.42)),
        ("add", "polygon", (0, -0.4, 0.78, -0.08, 0, 0.85, -0.78, -0.08)),
    ),
    "cross": (
        ("add", "polygon", (-0.25, -0.8, 0.25, -0.8, 0.25, 0.8, -0.25, 0.8)),
        ("add", "polygon", (-0.8, -0.25, 0.8, -0.25, 0.8, 0.25, -0.8, 0.25)),
    ),
    "ring": (("add", "ellipse", (0, 0, 0.8, 0.8)), ("cut", "ellipse", (0, 0, 0.42, 0.42))),
    "moon": (("add", "ellipse", (0, 0, 0.82, 0.82)), ("cut", "ellipse", (0.38, 0, 0.68, 0.7))),
    "arrow": (
        ("add", "polygon", (-0.8, -0.22, 0.2, -0.22, 0.2, 0.22, -0.8, 0.22)),
        ("add", "polygon", (0.1, -0.65, 0.85, 0, 0.1, 0.65)),
    ),
    "diamond": (("add", "polygon", (0, -0.9, 0.58, 0, 0, 0.9, -0.58, 0)),),
    "hexagon": (("add", "star", (3, 0.82, 0.82)),),
    "house": (
        ("add", "polygon", (0, -0.85, 0.85, -0.1, -0.85, -0.1)),
        ("add", "polygon", (-0.6, -0.2, 0.6, -0.2, 0.6, 0.75, -0.6, 0.75)),
        ("cut", "polygon", (-0.15, 0.2, 0.15, 0.2, 0.15, 0.8, -0.15, 0.8)),
    ),
    "tree": (
        ("add", "polygon", (0, -0.9, 0.6, 0.05, -0.6, 0.05)),
        ("add", "polygon", (0, -0.4, 0.75, 0.5, -0.75, 0.5)),
        ("add", "polygon", (-0.15, 0.4, 0.15, 0.4, 0.15, 0.85, -0.15, 0.85)),
    ),
    "fish": (("add", "ellipse", (-0.18, 0, 0.65, 0.4)), ("add", "polygon", (0.25, 0, 0.9, -0.48, 0.9, 0.48))),
    "flower": (
        ("add", "ellipse", (0, -0.5, 0.34, 0.34)),
        ("add", "ellipse", (0.48, -0.15, 0.34, 0.34)),
        ("add", "ellipse", (0.29, 0.41, 0.34, 0.34)),
        ("add", "ellipse", (-0.29, 0.41, 0.34, 0.34)),
        ("add", "ellipse", (-0.48, -0.15, 0.34, 0.34)),
        ("cut", "ellipse", (0, 0, 0.2, 0.2)),
    ),
    "bolt": (("add", "polygon", BOLT),),
    "gear": (("add", "star", (8, 0.9, 0.6)), ("cut", "ellipse", (0, 0, 0.3, 0.3))),
    "leaf": (
        ("add", "ellipse", (0.38, -0.38, 0.88, 0.88)),
        ("keep", "ellipse", (-0.38, 0.38, 0.88, 0.88)),
        ("add", "polygon", (-0.42, -0.54, -0.54, -0.42, -0.9, -0.78, -0.78, -0.9)),
    ),
    "cup": (
        ("add", "ellipse", (0.4, -0.05, 0.42, 0.4)),
        ("cut", "ellipse", (0.42, -0.05, 0.2, 0.2)),
        ("add", "polygon", (-0.7, -0.6, 0.3, -0.6, 0.2, 0.7, -0.6, 0.7)),
    ),
    "key": (
        ("add", "ellipse", (-0.5, 0, 0.38, 0.38)),
        ("cut", "ellipse", (-0.5, 0, 0.17, 0.17)),
        ("add", "polygon", (-0.15, -0.12, 0.85, -0.12, 0.85, 0.12, -0.15, 0.12)),
        ("add", "polygon", (0.32, 0, 0.5, 0, 0.5, 0.38, 0.32, 0.38)),
        ("add", "polygon", (0.65, 0, 0.85, 0, 0.85, 0.42, 0.65, 0.42)),
    ),
    "crown": (("add", "polygon", (-0.85, -0.55, -0.4, 0, 0, -0.75, 0.4, 0, 0.85, -0.55, 0.65, 0.6, -0.65, 0.6)),),
    "boat": (
        ("add", "polygon", (-0.88, 0.2, 0.88, 0.2, 0.5, 0.72, -0.5, 0.72)),
        ("add", "polygon", (-0.05, -0.88, 0.6, 0.08, -0.05, 0.08)),
    ),
    "mushroom": (
        ("add", "ellipse", (0, 0.02, 0.82, 0.78)),
        ("keep", "polygon", (-1, -1, 1, -1, 1, 0.02, -1, 0.02)),
        ("add", "polygon", (-0.22, 0, 0.22, 0, 0.3, 0.78, -0.3, 0.78)),
    ),
    "bell": (("add", "polygon", BELL), ("add", "ellipse", (0, 0.62, 0.2, 0.2))),
    "spark": (("add", "star", (4, 0.95, 0.32)),),
    "hexagram": (("add", "star", (6, 0.92, 0.53)),),
    "sun": (("add", "star", (11, 0.95, 0.6)),),
    "washer": (("add", "ellipse", (0, 0, 0.8, 0.8)), ("cut", "ellipse", (0, 0, 0.2, 0.2))),
    "hoop": (("add", "ellipse", (0, 0, 0.85, 0.85)), ("cut", "ellipse", (0, 0, 0.65, 0.65))),
    "sickle": (("add", "ellipse", (0, 0, 0.85, 0.85)), ("cut", "ellipse", (0.22, -0.05, 0.7, 0.74))),
    "clover": (
        ("add", "ellipse", (0, -0.42, 0.36, 0.36)),
        ("add", "ellipse", (0.42, 0.12, 0.36, 0.36)),
        ("add", "ellipse", (-0.42, 0.12, 0.36, 0.36)),
        ("add", "polygon", (-0.1, 0, 0.1, 0, 0.16, 0.9, -0.16, 0.9)),
    ),
    "daisy": (*DAISY, ("cut", "ellipse", (0, 0, 0.24, 0.24))),
    "plus": (
        ("add", "polygon", (-0.1, -0.8, 0.1, -0.8, 0.1, 0.8, -0.1, 0.8)),
        ("add", "polygon", (-0.8, -0.1, 0.8, -0.1, 0.8, 0.1, -0.8, 0.1)),
    ),
    "tower": (
        ("add", "polygon", (0, -0.95, 0.45, -0.4, -0.45, -0.4)),
        ("add", "polygon", (-0.3, -0.45, 0.3, -0.45, 0.3, 0.9, -0.3, 0.9)),
        ("cut", "polygon", (-0.1, 0.45, 0.1, 0.45, 0.1, 0.95, -0.1, 0.95)),
    ),
    "pentagon": (("add", "polygon", (0, -0.85, 0.81, -0.26, 0.5, 0.69, -0.5, 0.69, -0.81, -0.26)),),
    "octagon": (("add", "star", (4, 0.82, 0.82)),),
}
"""Name -> parts (operation, kind, numbers); x to the right, y down.

An ellipse is (x, y, radius in x, radius in y), a polygon its corners x, y, x, y, ..., a star (points, outer
radius, inner radius) with the first point upwards. `add` unites with the parts so far, `cut` removes,
`keep` intersects.
"""

SHAPES = tuple(OUTLINES)
COARSE = SHAPES[:24]
"""Shapes that differ at a glance."""


def corners(kind: str, numbers: tuple[float, ...]) -> np.ndarray:
    """Return the outline of a part as a closed polygon, (corners, 2)."""
    if kind == "polygon":
        return np.array(numbers).reshape(-1, 2)
    if kind == "star":
        points, outer, inner = numbers
        angles = np.arange(2 * int(points)) * np.pi / points
        radii = np.where(np.arange(2 * int(points)) % 2 == 0, outer, inner)
        return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)
    x, y, across, down = numbers
    angles = np.arange(48) * 2 * np.pi / 48
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1)


def polygon_distance(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the signed distance (P,) of points (P, 2) to a closed polygon, negative inside (even-odd rule)."""
    x, y = points[:, :1], points[:, 1:]
    start_x, start_y = polygon.T
    edge_x, edge_y = (np.roll(polygon, -1, axis=0) - polygon).T
    dx, dy = x - start_x, y - start_y
    along = np.clip((dx * edge_x + dy * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
    nearest = np.sqrt(((dx - along * edge_x) ** 2 + (dy - along * edge_y) ** 2).min(1))
    spans = (start_y > y) != (np.roll(start_y, -1) > y)
    left = x < start_x + dy * edge_x / np.where(edge_y == 0, 1, edge_y)
    return np.where((spans & left).sum(1) % 2 == 1, -nearest, nearest)


def outline_distance(parts: tuple[Part, ...], points: np.ndarray) -> np.ndarray:
    """Return the signed distance (P,) of points (P, 2) to a whole outline."""
    combined = np.full(len(points), np.inf)
    for operation, kind, numbers in parts:
        distance = polygon_distance(corners(kind, numbers), points)
        if operation == "add":
            combined = np.minimum(combined, distance)
        else:
            combined = np.maximum(combined, distance if operation == "keep" else -distance)
    return combined


@cache
def templates(size: int = 64) -> Tensor:
    """Return the signed distances of all shapes on a grid over [-REACH, REACH]^2: (36, 1, size, size) float32."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1) * REACH
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    distances = [outline_distance(parts, points).reshape(1, size, size) for parts in OUTLINES.values()]
    return torch.tensor(np.stack(distances), dtype=torch.float32)
