"""Scenes of the miniature world: the attributes of an image, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from promptvision.data.world import layout
from promptvision.data.world.attributes import (
    ARRANGEMENTS,
    COLOURS,
    LANDS,
    STYLE_ODDS,
    STYLES,
    SURFACES,
    TEXTURE_ODDS,
    TEXTURES,
    VIEWS,
)
from promptvision.data.world.layout import THINGS, Layout, Numbers, Rng
from promptvision.data.world.shapes import SHAPES

PALETTE = np.array(list(COLOURS.values()))


@dataclass(frozen=True)
class Scenes:
    """n scenes, one array per attribute; T = THINGS slots: the main thing, the second one, copies or clutter."""

    view: Numbers  # (n,) index into VIEWS
    arrangement: Numbers  # (n,) index into ARRANGEMENTS
    present: Numbers  # (n, T) bool
    centre: Numbers  # (n, T, 2)
    scale: Numbers  # (n, T)
    shape: Numbers  # (n, T) index into SHAPES
    colour: Numbers  # (n, T) index into COLOURS
    texture: Numbers  # (n, T) index into TEXTURES
    rotation: Numbers  # (n, T) degrees
    flip: Numbers  # (n, T) -1 or 1
    aspect: Numbers  # (n, T) stretch
    rgb: Numbers  # (n, T, 3)
    ground: Numbers  # (n,) index into COLOURS
    ground_rgb: Numbers  # (n, 3)
    pattern: Numbers  # (n,) index into SURFACES: of the ground
    land: Numbers  # (n,) index into LANDS
    style: Numbers  # (n,) index into STYLES
    night: Numbers  # (n,) bool: bright things on a dark ground
    turn: Numbers  # (n,) radians: of the pattern or the land
    phase: Numbers  # (n,) of patterns, radians
    frequency: Numbers  # (n,) of patterns, around 1
    light: Numbers  # (n,)
    shade: Numbers  # (n, 2) slope of the light
    noise: Numbers  # (n,) standard deviation
    grain: Numbers  # (n,) seed of the noise

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, rows: slice | Numbers) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Setting:
    """Variation of scenes.

    `sizes`, `shift`: half extent of a thing alone and its distance from the middle. `tilt`: degrees of usual rotation.
    `turned`: odds of any rotation. `clutter`: odds of each small thing. `noise`: standard deviation. `patterned`:
    odds of a ground that is not plain. `night`: odds of night. `arrangements`, `views`, `styles`: odds of each.
    `unseen_pairs`: whether (colour, shape) pairs that are held out from pretraining may occur.
    """

    sizes: tuple[float, float] = (0.34, 0.95)
    shift: float = 0.6
    tilt: float = 15.0
    turned: float = 0.15
    clutter: float = 0.12
    noise: float = 0.03
    patterned: float = 0.3
    night: float = 0.2
    arrangements: tuple[float, ...] = (0.42, 0.40, 0.18)
    views: tuple[float, ...] = (0.80, 0.10, 0.10)
    styles: tuple[float, ...] = STYLE_ODDS
    unseen_pairs: bool = True


USUAL = Setting()


def pretraining(share: float) -> Setting:
    """Return the setting after `share` (0 to 1) of the pairs: from one large thing in the middle to all of `USUAL`."""
    wide = min(1.0, max(0.0, (share - 0.08) / 0.42))
    first = (0.60, 0.15, 0.0, 0.0, 0.1, 0.70, 0.05, 0.88)
    last = (
        USUAL.sizes[0], USUAL.shift, USUAL.turned, USUAL.night, USUAL.patterned,
        USUAL.arrangements[0], USUAL.arrangements[2], USUAL.views[0],
    )  # fmt: skip
    size, shift, turned, night, patterned, one, several, things = (
        low + (high - low) * wide for low, high in zip(first, last, strict=True)
    )
    return Setting(
        sizes=(size, USUAL.sizes[1]),
        shift=shift,
        turned=turned,
        night=night,
        patterned=patterned,
        arrangements=(one, 1 - one - several, several),
        views=(things, (1 - things) / 2, (1 - things) / 2),
        unseen_pairs=False,
    )


def held_out(colour: Numbers, shape: Numbers) -> Numbers:
    """Return which (colour, shape) pairs are held out from pretraining: two of each shape's ten colours."""
    return (colour + 2 * shape) % 5 == 0


def _unlike(rng: Rng, values: Numbers, taken: Numbers, kinds: int) -> Numbers:
    """Return `values`, with another random one wherever they equal `taken`."""
    return np.where(values == taken, (taken + rng.integers(1, kinds, values.shape)) % kinds, values)


def _shapes(rng: Rng, n: int, given: dict[str, Numbers]) -> Numbers:
    """Return the shapes (n, T); the second thing's differs from the main one's."""
    shape = rng.integers(0, len(SHAPES), (n, THINGS))
    if "second" in given:
        shape[:, 1] = given["second"]
        shape[:, 0] = _unlike(rng, shape[:, 0], shape[:, 1], len(SHAPES))
    if "shape" in given:
        shape[:, 0] = given["shape"]
    if "second" not in given:
        shape[:, 1] = _unlike(rng, shape[:, 1], shape[:, 0], len(SHAPES))
    return shape


def _colours(rng: Rng, shape: Numbers, setting: Setting, given: dict[str, Numbers]) -> tuple[Numbers, Numbers]:
    """Return the colours of things (n, T) and grounds (n,): all differ from the ground unless both are given."""
    n = len(shape)
    colour = rng.integers(0, len(COLOURS), (n, THINGS))
    if "colour" in given:
        colour[:, 0] = given["colour"]
    while not setting.unseen_pairs and (held := held_out(colour, shape)).any():
        colour = np.where(held, rng.integers(0, len(COLOURS), (n, THINGS)), colour)
    ground = given.get("ground", _unlike(rng, rng.integers(0, len(COLOURS), n), colour[:, 0], len(COLOURS)))
    first = colour[:, 0].copy()
    apart = _unlike(rng, colour, np.repeat(ground[:, None], THINGS, 1), len(COLOURS))
    if not setting.unseen_pairs:
        apart = np.where(held_out(apart, shape), colour, apart)
    if "colour" in given:
        apart[:, 0] = first
    return apart, ground


def _layout(rng: Rng, n: int, setting: Setting, arrangement: Numbers, given: dict[str, Numbers]) -> Layout:
    """Lay out the things of each scene by its arrangement; clutter exists at random around one or two."""
    count = given.get("count", rng.integers(2, THINGS + 1, n))
    layouts = [
        layout.one(rng, n, setting.sizes, setting.shift),
        layout.two(rng, n, given.get("axis")),
        layout.several(rng, n, count),
    ]
    clutter = rng.random((n, THINGS)) < setting.clutter
    clutter[:, :2] = False
    mixed = layout.mixed(layouts, arrangement)
    return Layout(mixed.present | (clutter & (arrangement < 2)[:, None]), mixed.centre, mixed.scale)


def sample(rng: Rng, n: int, setting: Setting = USUAL, **given: Numbers) -> Scenes:
    """Draw n scenes.

    `given` fixes attributes, each (n,) indices: shape, colour and texture of the main thing, shape of the second
    thing (`second`), ground, pattern, land, style, view, arrangement; also `count` of several things, and `axis`, the
    index into AXES of two things.
    """
    view = given.get("view", rng.choice(len(VIEWS), n, p=setting.views))
    arrangement = given.get("arrangement", rng.choice(len(ARRANGEMENTS), n, p=setting.arrangements))
    alike = arrangement == ARRANGEMENTS.index("several")
    main = np.where(alike[:, None], 0, np.arange(THINGS))  # the slot whose attributes a thing has
    shape = np.take_along_axis(_shapes(rng, n, given), main, 1)
    colour, ground = _colours(rng, shape, setting, given)
    colour = np.take_along_axis(colour, main, 1)
    placed = _layout(rng, n, setting, arrangement, given)
    night = rng.random(n) < setting.night
    texture = rng.choice(len(TEXTURES), (n, THINGS), p=TEXTURE_ODDS)
    texture[:, 0] = given.get("texture", texture[:, 0])
    texture[:, 2:] = 0
    rotation = rng.uniform(-setting.tilt, setting.tilt, (n, THINGS))
    turned = rng.random((n, THINGS)) < setting.turned
    patterned = (rng.random(n) < setting.patterned) | (view == VIEWS.index("surface"))
    pattern = rng.integers(1, len(SURFACES), n) * patterned
    tint = rng.normal(0, 0.05, (n, THINGS + 1, 3))
    return Scenes(
        view=view,
        arrangement=arrangement,
        present=placed.present,
        centre=placed.centre,
        scale=placed.scale,
        shape=shape,
        colour=colour,
        texture=np.take_along_axis(texture, main, 1),
        rotation=np.where(turned, rng.uniform(-180, 180, (n, THINGS)), rotation),
        flip=rng.choice([-1.0, 1.0], (n, THINGS)),
        aspect=rng.uniform(0.87, 1.15, (n, THINGS)),
        rgb=np.where(night[:, None, None], PALETTE[colour] * 0.7 + 0.3, PALETTE[colour] * 0.75) + tint[:, 1:],
        ground=ground,
        ground_rgb=np.where(night[:, None], PALETTE[ground] * 0.28, PALETTE[ground] * 0.3 + 0.68) + tint[:, 0],
        pattern=given.get("pattern", pattern),
        land=given.get("land", rng.integers(0, len(LANDS), n)),
        style=given.get("style", rng.choice(len(STYLES), n, p=setting.styles)),
        night=night,
        turn=rng.uniform(0, 2 * np.pi, n),
        phase=rng.uniform(0, 2 * np.pi, n),
        frequency=rng.uniform(0.85, 1.2, n),
        light=rng.uniform(0.8, 1.15, n),
        shade=rng.normal(0, 0.12, (n, 2)),
        noise=setting.noise * np.exp(rng.normal(0, 0.4, n)),
        grain=rng.integers(0, 2**31, n),
    )
