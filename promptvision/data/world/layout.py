"""Layouts of the things of a scene: which exist, where they are, how large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Numbers = np.ndarray
Rng = np.random.Generator
THINGS = 6
"""Most things of a scene: the main one, the second one, and four that are copies of the main one or clutter."""
AXES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
"""Directions from the second thing to the main one: it is to the right, to the left, below, above."""


@dataclass(frozen=True)
class Layout:
    """Things of n scenes. Positions: [-1, 1] over the image, x to the right, y down."""

    present: Numbers  # (n, THINGS) bool
    centre: Numbers  # (n, THINGS, 2)
    scale: Numbers  # (n, THINGS) half a thing's extent


def one(rng: Rng, n: int, sizes: tuple[float, float], shift: float) -> Layout:
    """Place one thing of `sizes` at most `shift` from the middle; it stays in the image but for its margin."""
    layout = _clutter(rng, n)
    layout.present[:, 0] = True
    layout.scale[:, 0] = rng.uniform(*sizes, n)
    reach = np.minimum(shift, np.maximum(1.02 - 0.9 * layout.scale[:, 0], 0.05))
    layout.centre[:, 0] = rng.uniform(-1, 1, (n, 2)) * reach[:, None]
    return layout


def two(rng: Rng, n: int, axis: Numbers | None = None) -> Layout:
    """Place a larger thing and a smaller one side by side, or one above the other; `axis`: (n,) index into AXES."""
    layout = _clutter(rng, n)
    layout.present[:, :2] = True
    layout.scale[:, 0], layout.scale[:, 1] = rng.uniform(0.44, 0.58, n), rng.uniform(0.28, 0.36, n)
    along = AXES[rng.integers(0, len(AXES), n) if axis is None else axis]
    across = along[:, ::-1] * rng.uniform(-0.35, 0.35, (2, n, 1))
    layout.centre[:, 0] = 0.38 * along + across[0]
    layout.centre[:, 1] = -0.56 * along + across[1]
    return layout


def several(rng: Rng, n: int, count: Numbers) -> Layout:
    """Place `count` (n,) things of about one size in different cells of a 3 x 3 grid."""
    cells = rng.permuted(np.tile(np.arange(9), (n, 1)), axis=1)[:, :THINGS]
    grid = (np.stack([cells % 3, cells // 3], 2) - 1) * 0.62
    size = rng.uniform(0.22, 0.29, (n, 1))
    return Layout(
        present=np.arange(THINGS) < count[:, None],
        centre=grid + rng.uniform(-0.07, 0.07, (n, THINGS, 2)),
        scale=size * rng.uniform(0.92, 1.08, (n, THINGS)),
    )


def _clutter(rng: Rng, n: int) -> Layout:
    """Return small things at the slots after the second, which `sample` lets exist at random."""
    return Layout(
        present=np.zeros((n, THINGS), bool),
        centre=rng.uniform(-1, 1, (n, THINGS, 2)),
        scale=rng.uniform(0.08, 0.17, (n, THINGS)),
    )


def mixed(layouts: list[Layout], choice: Numbers) -> Layout:
    """Take scene i from layout `choice[i]`."""
    rows = np.arange(len(choice))
    fields = ("present", "centre", "scale")
    return Layout(*(np.stack([getattr(layout, name) for layout in layouts])[choice, rows] for name in fields))
