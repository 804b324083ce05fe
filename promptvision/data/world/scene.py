"""Scenes of the miniature world: the attributes of an image, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from promptvision.data.world.shapes import SHAPES

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.95, 0.90, 0.15),
    "green": (0.15, 0.65, 0.20),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.15, 0.25, 0.85),
    "purple": (0.50, 0.15, 0.65),
    "pink": (0.98, 0.60, 0.75),
    "brown": (0.45, 0.27, 0.10),
    "black": (0.05, 0.05, 0.05),
}
"""Name -> RGB. Objects are a shade darker, backgrounds are pastels of the same ten."""
TEXTURES = ("plain", "striped", "dotted", "checkered", "spiral", "hollow")
SIZES = ("small", "large")
STYLES = ("photo", "sketch", "painting", "negative", "blurry", "grainy", "dark")

TEXTURE_ODDS = (0.45, 0.13, 0.12, 0.12, 0.06, 0.12)
STYLE_ODDS = (0.70, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05)
CLUTTER = 4
"""Number of places for small things around the object."""

Numbers = np.ndarray


@dataclass(frozen=True)
class Scenes:
    """n scenes, one array per attribute. Positions: [-1, 1] over the image, x to the right, y down."""

    shape: Numbers  # (n,) index into SHAPES
    colour: Numbers  # (n,) index into COLOURS
    texture: Numbers  # (n,) index into TEXTURES
    size: Numbers  # (n,) index into SIZES
    background: Numbers  # (n,) index into COLOURS
    style: Numbers  # (n,) index into STYLES
    centre: Numbers  # (n, 2)
    scale: Numbers  # (n,) half the object's extent
    aspect: Numbers  # (n,) stretch
    rotation: Numbers  # (n,) degrees
    flip: Numbers  # (n,) -1 or 1
    clutter: Numbers  # (n, CLUTTER) bool: whether the thing exists
    clutter_shape: Numbers  # (n, CLUTTER)
    clutter_rgb: Numbers  # (n, CLUTTER, 3)
    clutter_centre: Numbers  # (n, CLUTTER, 2)
    clutter_scale: Numbers  # (n, CLUTTER)
    object_rgb: Numbers  # (n, 3)
    ground_rgb: Numbers  # (n, 3)
    phase: Numbers  # (n,) of the texture, radians
    frequency: Numbers  # (n,) of the texture, around 1
    light: Numbers  # (n,)
    shade: Numbers  # (n, 2) slope of the light
    noise: Numbers  # (n,) standard deviation
    grain: Numbers  # (n,) seed of the noise

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice | Numbers) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Setting:
    """Variation of scenes: degrees, odds of each clutter thing, noise, shift of the object from the centre.

    `unseen_pairs`: whether (colour, shape) pairs that are held out from pretraining may occur.
    """

    rotation: float = 15.0
    clutter: float = 0.14
    noise: float = 0.03
    shift: float = 0.12
    unseen_pairs: bool = True


USUAL = Setting()
PRETRAINING = Setting(unseen_pairs=False)


def held_out(colour: Numbers, shape: Numbers) -> Numbers:
    """Return which (colour, shape) pairs are held out from pretraining: two of each shape's ten colours."""
    return (colour + 2 * shape) % 5 == 0


def _unlike(rng: np.random.Generator, values: Numbers, taken: Numbers) -> Numbers:
    """Return `values`, with another random colour wherever they equal `taken`."""
    return np.where(values == taken, (taken + rng.integers(1, len(COLOURS), len(values))) % len(COLOURS), values)


def _colours(
    rng: np.random.Generator, shape: Numbers, setting: Setting, given: dict[str, Numbers]
) -> tuple[Numbers, Numbers]:
    """Return object and background colours, which differ unless both are given."""
    n = len(shape)
    colour = given.get("colour", rng.integers(0, len(COLOURS), n))
    while not setting.unseen_pairs and (held := held_out(colour, shape)).any():
        colour = np.where(held, rng.integers(0, len(COLOURS), n), colour)
    if "background" not in given:
        return colour, _unlike(rng, rng.integers(0, len(COLOURS), n), colour)
    return colour if "colour" in given else _unlike(rng, colour, given["background"]), given["background"]


def sample(rng: np.random.Generator, n: int, setting: Setting = USUAL, **given: Numbers) -> Scenes:
    """Draw n scenes; `given` fixes attributes, (n,) indices."""
    shape = given.get("shape", rng.integers(0, len(SHAPES), n))
    colour, background = _colours(rng, shape, setting, given)
    size = given.get("size", rng.integers(0, len(SIZES), n))
    scale = np.where(size == 0, rng.uniform(0.55, 0.68, n), rng.uniform(0.80, 0.98, n))
    palette = np.array(list(COLOURS.values()))
    tint = rng.normal(0, 0.05, (2, n, 3))
    return Scenes(
        shape=shape,
        colour=colour,
        texture=given.get("texture", rng.choice(len(TEXTURES), n, p=TEXTURE_ODDS)),
        size=size,
        background=background,
        style=given.get("style", rng.choice(len(STYLES), n, p=STYLE_ODDS)),
        centre=rng.uniform(-1, 1, (n, 2)) * np.minimum(setting.shift, 1.05 - scale)[:, None],
        scale=scale,
        aspect=rng.uniform(0.85, 1.18, n),
        rotation=rng.uniform(-setting.rotation, setting.rotation, n),
        flip=rng.choice([-1.0, 1.0], n),
        clutter=rng.random((n, CLUTTER)) < setting.clutter,
        clutter_shape=rng.integers(0, len(SHAPES), (n, CLUTTER)),
        clutter_rgb=palette[rng.integers(0, len(COLOURS), (n, CLUTTER))] * 0.5 + 0.35,
        clutter_centre=rng.uniform(-1, 1, (n, CLUTTER, 2)),
        clutter_scale=rng.uniform(0.1, 0.2, (n, CLUTTER)),
        object_rgb=palette[colour] * 0.75 + tint[0],
        ground_rgb=palette[background] * 0.3 + 0.68 + tint[1],
        phase=rng.uniform(0, 2 * np.pi, n),
        frequency=rng.uniform(0.85, 1.15, n),
        light=rng.uniform(0.8, 1.15, n),
        shade=rng.normal(0, 0.12, (n, 2)),
        noise=setting.noise * np.exp(rng.normal(0, 0.4, n)),
        grain=rng.integers(0, 2**31, n),
    )
