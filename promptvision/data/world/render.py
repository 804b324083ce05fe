"""Renders scenes to images: signed distances warped by `grid_sample`, painted, then changed to a style."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.data.world.attributes import LANDS, STYLES, SURFACES, TEXTURES, VIEWS
from promptvision.data.world.layout import THINGS
from promptvision.data.world.patterns import land, wave
from promptvision.data.world.scene import Scenes
from promptvision.data.world.shapes import REACH, templates

SIDE = 32
"""Pixels of an image in each direction."""
PIXEL = 2 / SIDE
RIPPLE = 2 * math.pi / (8 * PIXEL)
"""Radians of a pattern over an image unit: its waves are about 8 pixels long."""
BATCH = 512


@dataclass(frozen=True)
class Placed:
    """Shapes at their places, in image units: distance to the outline, own coordinates; each (m, SIDE, SIDE)."""

    distance: Tensor
    u: Tensor
    v: Tensor


def render(scenes: Scenes) -> Tensor:
    """Return the images of n scenes, (n, 3, 32, 32) uint8; each depends on its own scene only."""
    return torch.cat([_render(scenes[start : start + BATCH]) for start in range(0, len(scenes), BATCH)])


def _render(scenes: Scenes) -> Tensor:
    image, lines = _ground(scenes)
    things = scenes.view == VIEWS.index("things")
    for slot in reversed(range(THINGS)):
        rows = np.flatnonzero(scenes.present[:, slot] & things)
        if len(rows):
            image[rows], lines[rows] = _drawn(scenes[rows], slot, image[rows], lines[rows])
    x, y = _grid()
    slope = _real(scenes.shade)[:, :, None, None]
    image = image * ((1 + slope[:, 0] * x + slope[:, 1] * y) * _real(scenes.light)[:, None, None])[:, None]
    for number, style in enumerate(STYLES):
        rows = np.flatnonzero(scenes.style == number)
        if len(rows):
            image[rows] = _styled(style, image[rows], lines[rows])
    return ((image + _noise(scenes)).clamp(0, 1) * 255).round().to(torch.uint8)


def _real(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def _grid() -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres, each (SIDE, SIDE)."""
    axis = (torch.arange(SIDE) + 0.5) * PIXEL - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _turned(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Return the coordinates of the ground, turned by each scene's angle; (n, SIDE, SIDE)."""
    (x, y), turn = _grid(), _real(scenes.turn)[:, None, None]
    return torch.cos(turn) * x + torch.sin(turn) * y, torch.cos(turn) * y - torch.sin(turn) * x


def _ground(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Return the images without things, (n, 3, SIDE, SIDE), and the lines of a sketch of them, (n, SIDE, SIDE)."""
    colour = _real(scenes.ground_rgb)[:, :, None, None]
    image = colour.repeat(1, 1, SIDE, SIDE)
    lines = torch.zeros(len(scenes), SIDE, SIDE)
    u, v = _turned(scenes)
    phase, rate = (_real(values)[:, None, None] for values in (scenes.phase, scenes.frequency * RIPPLE))
    filled = scenes.view == VIEWS.index("surface")
    for number, name in enumerate(SURFACES[1:], 1):
        rows = np.flatnonzero((scenes.pattern == number) & (scenes.view != VIEWS.index("land")))
        weight = wave(name, (u * rate)[rows], (v * rate)[rows], phase[rows])
        depth = torch.where(torch.as_tensor(filled[rows]), 0.62, 0.22)[:, None, None]
        image[rows] = image[rows] * (1 - depth * weight)[:, None]
        lines[rows] = weight * depth
    for number, name in enumerate(LANDS):
        rows = np.flatnonzero((scenes.view == VIEWS.index("land")) & (scenes.land == number))
        if len(rows):
            image[rows] = land(name, u[rows], v[rows], phase[rows]) + 0.12 * (colour[rows] - 0.8)
            lines[rows] = 1 - image[rows].mean(1)
    return image, lines


def _drawn(scenes: Scenes, slot: int, image: Tensor, lines: Tensor) -> tuple[Tensor, Tensor]:
    """Paint the things of a slot onto images that all have one, and onto their sketches."""
    thing = place(scenes, slot)
    inside, pattern = _ink(thing.distance), _texture(scenes, slot, thing)
    first = _real(scenes.rgb[:, slot])
    second = torch.where(first.mean(1, keepdim=True) > 0.32, first * 0.35, first * 0.6 + 0.3)
    surface = _paint(first[:, :, None, None].expand(-1, -1, SIDE, SIDE), pattern, second[:, :, None, None])
    wall = _ink((thing.distance + 1.1 * PIXEL).abs() - 1.1 * PIXEL)
    hollow = torch.as_tensor(scenes.texture[:, slot] == TEXTURES.index("hollow"))[:, None, None]
    outline = torch.maximum(_ink(thing.distance.abs() - 0.8 * PIXEL), 0.35 * pattern * inside)
    return _paint(image, torch.where(hollow, wall, inside), surface), lines + inside * (outline - lines) + (
        outline * (1 - inside)
    )


def place(scenes: Scenes, slot: int) -> Placed:
    """Place the shapes of a slot in the image."""
    x, y = _grid()
    middle, turn = _real(scenes.centre[:, slot]), np.deg2rad(scenes.rotation[:, slot])
    size, stretch, mirror, cosine, sine = (
        _real(values)[:, None, None]
        for values in (scenes.scale[:, slot], scenes.aspect[:, slot], scenes.flip[:, slot], np.cos(turn), np.sin(turn))
    )
    dx, dy = (x - middle[:, 0, None, None]) / size, (y - middle[:, 1, None, None]) / size
    u = (cosine * dx + sine * dy) * mirror * stretch
    v = (cosine * dy - sine * dx) / stretch
    at = torch.stack([u, v], -1) / REACH
    outlines = templates()[torch.as_tensor(scenes.shape[:, slot])]
    distance = F.grid_sample(outlines, at, padding_mode="border", align_corners=False)[:, 0]
    beyond = (at.abs().amax(-1) - 1).clamp(min=0) * REACH
    return Placed((distance + beyond) * size, u * size, v * size)


def _texture(scenes: Scenes, slot: int, thing: Placed) -> Tensor:
    """Return the weight of the second tone of the things of a slot, (m, SIDE, SIDE)."""
    weights = torch.zeros_like(thing.u)
    phase, rate = (_real(values)[:, None, None] for values in (scenes.phase, scenes.frequency * RIPPLE))
    for number, name in enumerate(TEXTURES):
        rows = np.flatnonzero(scenes.texture[:, slot] == number)
        if len(rows) and name not in ("plain", "hollow"):
            weights[rows] = wave(name, (thing.u * rate)[rows], (thing.v * rate)[rows], phase[rows])
    return weights


def _ink(distance: Tensor) -> Tensor:
    """Return the share of each pixel that is inside an outline, 0 to 1."""
    return (0.5 - distance / PIXEL).clamp(0, 1)


def _paint(image: Tensor, cover: Tensor, colour: Tensor) -> Tensor:
    """Blend `colour` (n, 3, ...) into the image (n, 3, SIDE, SIDE) by the weights `cover` (n, SIDE, SIDE)."""
    return image + cover[:, None] * (colour - image)


def _styled(style: str, image: Tensor, lines: Tensor) -> Tensor:
    """Return images (n, 3, SIDE, SIDE) in a style; `lines` (n, SIDE, SIDE): the outlines for a sketch."""
    if style == "sketch":
        return (0.95 - 0.8 * lines)[:, None].expand_as(image)
    if style == "painting":
        canvas = torch.tensor([0.9, 0.75, 0.45])[:, None, None]
        return (_blur(image) * 3).round() / 3 * 0.8 + 0.2 * canvas
    if style == "negative":
        return 1 - image
    if style == "blurry":
        return _blur(_blur(image))
    return image * 0.35 if style == "dark" else image


def _blur(image: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _noise(scenes: Scenes) -> Tensor:
    """Draw the noise of each image from its own seed, so that it does not depend on the batch."""
    grains = [np.random.Generator(np.random.PCG64(int(seed))) for seed in scenes.grain]
    noise = np.stack([grain.standard_normal((3, SIDE, SIDE), dtype=np.float32) for grain in grains])
    strength = scenes.noise + 0.15 * (scenes.style == STYLES.index("grainy"))
    return _real(strength)[:, None, None, None] * torch.from_numpy(noise)
