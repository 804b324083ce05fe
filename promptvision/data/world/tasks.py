"""The world's data sets: tasks whose classes are words, shifted copies of one of them, and tasks without words.

They were fixed before any results were known and must not be chosen by results; the cards of `location` and
`colour_shapes` describe the two changes since.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from promptvision.data.images import Images, Item
from promptvision.data.world.render import render
from promptvision.data.world.scene import CLUTTER, COLOURS, STYLES, TEXTURES, USUAL, Numbers, Scenes, Setting, sample
from promptvision.data.world.shapes import SHAPES
from promptvision.errors import unknown

Rng = np.random.Generator
HUES = tuple(COLOURS)
SKETCH = Setting(rotation=30)
SECOND = Setting(rotation=25, clutter=0.25, noise=0.06, shift=0.2)
CLEAR = Setting(clutter=0)
ADVERSE = Setting(rotation=50, clutter=0.5, noise=0.08, shift=0.3)
UPRIGHT = np.array([SHAPES.index(name) for name in ("triangle", "heart", "house", "tree", "crown", "mushroom", "bell")])
"""Shapes with mirror symmetry and one clear way up."""
PAIRS = np.array([(hue, (hue + step) % len(HUES)) for step in (3, 6) for hue in range(len(HUES))])
"""(object, background) colours of the task `background_colours`."""


@dataclass(frozen=True)
class Task:
    """Class names, images per class in train, val and test, and the function that draws scenes of given labels."""

    classes: tuple[str, ...]
    counts: tuple[int, int, int]
    scenes: Callable[[Rng, Numbers], Scenes]


def _photos(rng: Rng, labels: Numbers, setting: Setting = USUAL, **given: Numbers) -> Scenes:
    return sample(rng, len(labels), setting, style=np.zeros(len(labels), int), **given)


def _styled(rng: Rng, labels: Numbers, styles: tuple[str, ...], setting: Setting = USUAL) -> Scenes:
    choices = np.array([STYLES.index(style) for style in styles])
    return sample(rng, len(labels), setting, shape=labels, style=rng.choice(choices, len(labels)))


def colour_shape_pairs() -> list[tuple[int, int]]:
    """Return (colour, shape) of the classes of `colour_shapes`: every shape in two colours, so that both words count.

    The first half of the pairs occurs in pretraining; the other half has other shapes, each in the two colours that
    are held out from it.
    """
    half = len(SHAPES) // 2
    base = [((1 - 2 * shape) % 5 + other, shape) for shape in range(half) for other in (0, 5)]
    new = [((-2 * shape) % 5 + other, shape) for shape in range(half, 2 * half) for other in (0, 5)]
    return base + new


def _counted(rng: Rng, labels: Numbers) -> Scenes:
    """Draw label + 1 equal small things in different cells of a 3x3 grid."""
    n = len(labels)
    scenes = _photos(rng, labels, texture=np.zeros(n, int))
    cells = rng.permuted(np.tile(np.arange(9), (n, 1)), axis=1)[:, : 1 + CLUTTER]
    places = (np.stack([cells % 3, cells // 3], 2) - 1) * 0.62 + rng.uniform(-0.06, 0.06, (n, 1 + CLUTTER, 2))
    return replace(
        scenes,
        centre=places[:, 0],
        clutter_centre=places[:, 1:],
        scale=rng.uniform(0.2, 0.26, n),
        clutter_scale=rng.uniform(0.2, 0.26, (n, CLUTTER)),
        clutter=np.arange(CLUTTER) < labels[:, None],
        clutter_shape=np.repeat(scenes.shape[:, None], CLUTTER, 1),
        clutter_rgb=np.repeat(scenes.object_rgb[:, None], CLUTTER, 1),
    )


def _located(rng: Rng, labels: Numbers) -> Scenes:
    """Draw an object in one cell of a 4x4 grid, without clutter."""
    n = len(labels)
    cell = np.stack([labels % 4, labels // 4], 1) * 0.5 - 0.75
    centre, scale = cell + rng.uniform(-0.12, 0.12, (n, 2)), rng.uniform(0.32, 0.42, n)
    return replace(_photos(rng, labels, CLEAR), centre=centre, scale=scale)


def _oriented(rng: Rng, labels: Numbers) -> Scenes:
    """Draw an object rotated by 45 degrees times its label, plus or minus 15."""
    n = len(labels)
    scenes = _photos(rng, labels, shape=rng.choice(UPRIGHT, n))
    return replace(scenes, rotation=45 * labels + rng.uniform(-15, 15, n), flip=np.ones(n))


COLOUR_SHAPES = np.array(colour_shape_pairs())
POOL = (64, 16, 80)
TEST_ONLY = (0, 0, 80)
TASKS: dict[str, Task] = {
    "shapes": Task(SHAPES, POOL, lambda rng, labels: _photos(rng, labels, shape=labels)),
    "shapes_v2": Task(SHAPES, TEST_ONLY, lambda rng, labels: _photos(rng, labels, SECOND, shape=labels)),
    "shapes_sketch": Task(SHAPES, TEST_ONLY, lambda rng, labels: _styled(rng, labels, ("sketch",), SKETCH)),
    "shapes_adversarial": Task(
        SHAPES,
        TEST_ONLY,
        lambda rng, labels: _photos(
            rng,
            labels,
            ADVERSE,
            shape=labels,
            texture=rng.integers(1, len(TEXTURES), len(labels)),
            size=np.zeros(len(labels), int),
        ),
    ),
    "shapes_rendition": Task(SHAPES, TEST_ONLY, lambda rng, labels: _styled(rng, labels, STYLES[2:])),
    "sketches": Task(SHAPES, POOL, lambda rng, labels: _styled(rng, labels, ("sketch",), SKETCH)),
    "colour_shapes": Task(
        tuple(f"{HUES[colour]} {SHAPES[shape]}" for colour, shape in COLOUR_SHAPES),
        (64, 16, 40),
        lambda rng, labels: _photos(rng, labels, colour=COLOUR_SHAPES[labels, 0], shape=COLOUR_SHAPES[labels, 1]),
    ),
    "backgrounds": Task(HUES, (64, 16, 200), lambda rng, labels: _photos(rng, labels, background=labels)),
    "background_colours": Task(
        tuple(f"{HUES[colour]} on {HUES[ground]}" for colour, ground in PAIRS),
        (64, 16, 100),
        lambda rng, labels: _photos(rng, labels, colour=PAIRS[labels, 0], background=PAIRS[labels, 1]),
    ),
    "textures": Task(TEXTURES, (64, 16, 300), lambda rng, labels: _photos(rng, labels, texture=labels)),
    "styles": Task(
        ("photo", "sketch", "painting", "negative", "blurry photo", "grainy photo", "dark photo"),
        (64, 16, 250),
        lambda rng, labels: sample(rng, len(labels), style=labels),
    ),
    "counting": Task(("one", "two", "three", "four", "five"), (160, 40, 320), _counted),
    "location": Task(
        tuple(f"row {row}, column {column}" for row in range(1, 5) for column in range(1, 5)), (50, 16, 100), _located
    ),
    "orientation": Task(
        ("up", "up right", "right", "down right", "down", "down left", "left", "up left"), (100, 25, 200), _oriented
    ),
}


@cache
def read_task(name: str) -> Images:
    """Return the images of a task in the order of its classes; callers must not change them.

    They are rendered once per process, in about a second, and are the same every time.
    """
    if name not in TASKS:
        raise unknown("task of the world", name, TASKS)
    task, pixels = TASKS[name], {}
    lists: dict[str, list[Item]] = {}
    for split, (part, count) in enumerate(zip(("train", "val", "test"), task.counts, strict=True)):
        labels = np.repeat(np.arange(len(task.classes)), count)
        items: list[Item] = [(f"{name}/{part}/{i:05d}", int(y), task.classes[y]) for i, y in enumerate(labels)]
        lists[part] = items
        if items:
            rng = np.random.default_rng([zlib.crc32(name.encode()), split])
            images = render(task.scenes(rng, labels)).permute(0, 2, 3, 1).numpy()
            pixels.update({key: image for (key, _, _), image in zip(items, images, strict=True)})

    def open_image(key: str) -> Image.Image:
        if key not in pixels:
            raise unknown(f"image of the world's task {name!r}", key, pixels)
        return Image.fromarray(pixels[key])

    return Images(lists["train"], lists["val"], lists["test"], open_image)
