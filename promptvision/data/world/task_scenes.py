"""Scenes of the world's tasks: functions that draw a scene for each label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from promptvision.data.world.attributes import COLOURS, STYLES
from promptvision.data.world.layout import Numbers, Rng
from promptvision.data.world.scene import Scenes, Setting, held_out, sample
from promptvision.data.world.shapes import COARSE, SHAPES

THINGS_ONLY = (1.0, 0.0, 0.0)
ONE, TWO, SEVERAL = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
PHOTO = tuple(float(style == "photo") for style in STYLES)
SKETCH = tuple(float(style == "sketch") for style in STYLES)
RENDITIONS = (0.0, 0.0, 0.25, 0.25, 0.2, 0.15, 0.15)
VARIED = (0.5, 0.0, 0.1, 0.1, 0.1, 0.1, 0.1)
CAMERA = (0.4, 0.0, 0.0, 0.0, 0.25, 0.2, 0.15)
"""Odds of styles: what a camera does to land."""
PLAIN = Setting(views=THINGS_ONLY, arrangements=ONE, styles=PHOTO)
PAIR = Setting(views=THINGS_ONLY, arrangements=TWO, styles=PHOTO)
ALIKE = Setting(views=THINGS_ONLY, arrangements=SEVERAL, styles=VARIED)
LAND = Setting(views=(0.0, 0.0, 1.0), styles=CAMERA, noise=0.06)
BEHIND = Setting(views=THINGS_ONLY, styles=CAMERA)
COARSE_NUMBERS = np.array([SHAPES.index(name) for name in COARSE])
KINDS = (
    "star", "spark", "hexagram", "sun", "ring", "washer", "hoop", "moon", "sickle", "flower", "clover", "daisy",
    "cross", "plus", "house", "tower", "hexagon", "pentagon", "octagon", "circle",
)  # fmt: skip
"""Fine-grained kinds: families of shapes that differ in a detail."""
KIND_NUMBERS = np.array([SHAPES.index(name) for name in KINDS])
UPRIGHT = np.array([SHAPES.index(name) for name in ("heart", "house", "tree", "crown", "mushroom", "bell", "arrow")])
"""Shapes with one clear way up."""
DISTANCES = ((0.80, 0.95), (0.62, 0.74), (0.48, 0.57), (0.36, 0.43), (0.26, 0.32), (0.18, 0.22))
"""Half extents of a thing at each distance."""

Draw = Callable[[Rng, Numbers], Scenes]


def fixed(setting: Setting, **values: Numbers) -> Draw:
    """Return a function that draws scenes in which each attribute has the value of the label."""
    return lambda rng, labels: sample(
        rng, len(labels), setting, **{name: value[labels] for name, value in values.items()}
    )


def pairs() -> list[tuple[int, int]]:
    """Return (colour, shape) of the classes of `colour_shapes`: every shape in two colours, so that both words count.

    The first half of the pairs occurs in pretraining; the other half has other shapes, each in the two colours that
    are held out from it.
    """
    every = np.array([(colour, shape) for shape in range(0, len(COARSE), 2) for colour in range(len(COLOURS))])
    fits = held_out(*every.T) == (every[:, 1] >= len(COARSE) // 2)
    by_shape = [every[fits & (every[:, 1] == shape)][:2] for shape in range(0, len(COARSE), 2)]
    return [(int(colour), int(shape)) for colour, shape in np.concatenate(by_shape)]


def located(rng: Rng, labels: Numbers) -> Scenes:
    """Draw a thing in one cell of a 4 x 4 grid among clutter, in varied styles."""
    n, setting = len(labels), Setting(views=THINGS_ONLY, arrangements=ONE, styles=VARIED, clutter=0.3)
    scenes = sample(rng, n, setting)
    centre, scale = scenes.centre.copy(), scenes.scale.copy()
    centre[:, 0] = np.stack([labels % 4, labels // 4], 1) * 0.46 - 0.69 + rng.uniform(-0.1, 0.1, (n, 2))
    scale[:, 0] = rng.uniform(0.3, 0.42, n)
    return replace(scenes, centre=centre, scale=scale)


def oriented(rng: Rng, labels: Numbers) -> Scenes:
    """Draw a thing rotated by 45 degrees times its label, plus or minus 15, in varied styles."""
    n, setting = len(labels), Setting(views=THINGS_ONLY, arrangements=ONE, styles=VARIED, sizes=(0.5, 0.9), shift=0.3)
    scenes = sample(rng, n, setting, shape=rng.choice(UPRIGHT, n))
    rotation = scenes.rotation.copy()
    rotation[:, 0] = 45 * labels + rng.uniform(-15, 15, n)
    return replace(scenes, rotation=rotation, flip=np.ones_like(scenes.flip))


def distant(rng: Rng, labels: Numbers) -> Scenes:
    """Draw a thing at one of six distances, in varied styles."""
    n, setting = len(labels), Setting(views=THINGS_ONLY, arrangements=ONE, styles=VARIED, shift=0.4)
    scenes = sample(rng, n, setting)
    scale = scenes.scale.copy()
    scale[:, 0] = rng.uniform(*np.array(DISTANCES)[labels].T)
    return replace(scenes, scale=scale)
