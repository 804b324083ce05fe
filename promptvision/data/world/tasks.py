"""The world's datasets: tasks whose classes are words, shifted copies of one of them, and tasks without words.

They were fixed before results of prompts were looked at; `configs/benchmarks/embedded_admission.yaml` is the check.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from promptvision.data.images import Images, Item
from promptvision.data.world import task_scenes as scenes
from promptvision.data.world.attributes import COLOURS, LANDS, SURFACE_WORDS, TEXTURES
from promptvision.data.world.render import render
from promptvision.data.world.scene import USUAL
from promptvision.data.world.shapes import COARSE, SHAPES
from promptvision.errors import unknown

HUES = tuple(COLOURS)
PAIRS = scenes.pairs()
MIXED = replace(scenes.PAIR, arrangements=(0.3, 0.7, 0.0))
"""The main thing beside another one, or alone: what most tasks of shapes show."""
STYLE_NAMES = ("photo", "sketch", "painting", "negative", "blurry photo", "grainy photo", "dark photo")


@dataclass(frozen=True)
class Task:
    """Class names, images per class in train, val and test, and the function that draws scenes of given labels."""

    classes: tuple[str, ...]
    counts: tuple[int, int, int]
    scenes: scenes.Draw


POOL, TEST_ONLY = (64, 16, 60), (0, 0, 60)
TASKS: dict[str, Task] = {
    "shapes": Task(COARSE, POOL, scenes.fixed(MIXED, shape=scenes.COARSE_NUMBERS)),
    "shapes_v2": Task(
        COARSE,
        TEST_ONLY,
        scenes.fixed(replace(MIXED, turned=0.4, clutter=0.25, noise=0.06, shift=0.8), shape=scenes.COARSE_NUMBERS),
    ),
    "shapes_sketch": Task(
        COARSE, TEST_ONLY, scenes.fixed(replace(MIXED, styles=scenes.SKETCH), shape=scenes.COARSE_NUMBERS)
    ),
    "shapes_adversarial": Task(
        COARSE,
        TEST_ONLY,
        scenes.fixed(
            replace(MIXED, turned=0.3, clutter=0.5, noise=0.09, patterned=1.0, night=0.5),
            shape=scenes.COARSE_NUMBERS,
        ),
    ),
    "shapes_rendition": Task(
        COARSE, TEST_ONLY, scenes.fixed(replace(MIXED, styles=scenes.RENDITIONS), shape=scenes.COARSE_NUMBERS)
    ),
    "kinds": Task(
        scenes.KINDS, POOL, scenes.fixed(replace(scenes.PLAIN, noise=0.05, clutter=0.2), shape=scenes.KIND_NUMBERS)
    ),
    "small_shapes": Task(COARSE, POOL, scenes.fixed(scenes.PAIR, second=scenes.COARSE_NUMBERS)),
    "sketches": Task(
        COARSE, POOL, scenes.fixed(replace(MIXED, styles=scenes.SKETCH, turned=0.3), shape=scenes.COARSE_NUMBERS)
    ),
    "colour_shapes": Task(
        tuple(f"{HUES[colour]} {SHAPES[shape]}" for colour, shape in PAIRS),
        POOL,
        scenes.fixed(scenes.PAIR, colour=np.array(PAIRS)[:, 0], shape=np.array(PAIRS)[:, 1]),
    ),
    "colours": Task(HUES, (64, 16, 120), scenes.fixed(replace(MIXED, styles=scenes.CAMERA), colour=np.arange(10))),
    "backgrounds": Task(HUES, (64, 16, 120), scenes.fixed(replace(MIXED, styles=scenes.CAMERA), ground=np.arange(10))),
    "textures": Task(
        TEXTURES, (64, 16, 200), scenes.fixed(replace(scenes.PLAIN, sizes=(0.5, 0.95)), texture=np.arange(6))
    ),
    "surfaces": Task(
        tuple(words[0] for words in SURFACE_WORDS[1:]),
        (64, 16, 120),
        scenes.fixed(scenes.BEHIND, pattern=np.arange(1, 10)),
    ),
    "land": Task(LANDS, (64, 16, 120), scenes.fixed(scenes.LAND, land=np.arange(11))),
    "styles": Task(STYLE_NAMES, (64, 16, 200), scenes.fixed(USUAL, style=np.arange(7))),
    "relations": Task(
        ("to the right of", "to the left of", "below", "above"),
        (200, 50, 300),
        scenes.fixed(scenes.PAIR, axis=np.arange(4)),
    ),
    "counting": Task(
        ("two", "three", "four", "five", "six"), (160, 40, 300), scenes.fixed(scenes.ALIKE, count=np.arange(2, 7))
    ),
    "location": Task(
        tuple(f"row {row}, column {column}" for row in range(1, 5) for column in range(1, 5)),
        (50, 12, 80),
        scenes.located,
    ),
    "orientation": Task(
        ("up", "up right", "right", "down right", "down", "down left", "left", "up left"),
        (100, 25, 160),
        scenes.oriented,
    ),
    "distance": Task(("nearest", "near", "middle", "far", "farther", "farthest"), (130, 32, 200), scenes.distant),
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
