"""Renders scenes to images: signed distances warped by `grid_sample`, painted, then changed to a style."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.data.world.scene import CLUTTER, STYLES, Scenes
from promptvision.data.world.shapes import REACH, templates

SIDE = 32
"""Pixels of an image in each direction."""
PIXEL = 2 / SIDE
BATCH = 512


@dataclass(frozen=True)
class Placed:
    """Shapes at their places, in image units: distance to the outline, own coordinates; each (n, SIDE, SIDE)."""

    distance: Tensor
    u: Tensor
    v: Tensor


def render(scenes: Scenes) -> Tensor:
    """Return the images of n scenes, (n, 3, 32, 32) uint8; each depends on its own scene only."""
    return torch.cat([_render(scenes[start : start + BATCH]) for start in range(0, len(scenes), BATCH)])


def _render(scenes: Scenes) -> Tensor:
    turn = np.deg2rad(scenes.rotation)
    thing = place(scenes.shape, scenes.centre, scenes.scale, turn, scenes.flip, scenes.aspect)
    pattern = texture(scenes, thing)
    image = _scene(scenes, thing, pattern)
    lines = torch.maximum(_ink(thing.distance.abs() - 0.8 * PIXEL), 0.35 * pattern * _ink(thing.distance))
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


def place(
    shape: np.ndarray, centre: np.ndarray, scale: np.ndarray, turn: np.ndarray, flip: np.ndarray, aspect: np.ndarray
) -> Placed:
    """Place n shapes in the image; `turn` in radians, other arguments as in `Scenes`."""
    x, y = _grid()
    middle, size, stretch, mirror = _real(centre), _real(scale), _real(aspect), _real(flip)
    cosine, sine = (value[:, None, None] for value in (_real(np.cos(turn)), _real(np.sin(turn))))
    size, stretch, mirror = (value[:, None, None] for value in (size, stretch, mirror))
    dx, dy = (x - middle[:, 0, None, None]) / size, (y - middle[:, 1, None, None]) / size
    u = (cosine * dx + sine * dy) * mirror * stretch
    v = (cosine * dy - sine * dx) / stretch
    at = torch.stack([u, v], -1) / REACH
    distance = F.grid_sample(templates()[torch.as_tensor(shape)], at, padding_mode="border", align_corners=False)[:, 0]
    beyond = (at.abs().amax(-1) - 1).clamp(min=0) * REACH
    return Placed((distance + beyond) * size, u * size, v * size)


def texture(scenes: Scenes, thing: Placed) -> Tensor:
    """Return the weight of the second tone, (n, SIDE, SIDE): waves about 8 pixels long, one pattern per texture."""
    phase = _real(scenes.phase)[:, None, None]
    wave = _real(scenes.frequency)[:, None, None] * (2 * math.pi / (8 * PIXEL))
    u, v = wave * thing.u, wave * thing.v
    none = torch.full_like(u, -1)
    patterns = [
        none,
        torch.sin(u + 0.3 * v + phase),
        torch.cos(u + phase) + torch.cos(v + phase) - 0.6,
        2 * torch.sin(0.8 * u + phase) * torch.sin(0.8 * v + phase),
        torch.sin((u**2 + v**2).sqrt() + torch.atan2(v, u) + phase),
        none,
    ]
    waves = torch.stack(patterns, 1)[torch.arange(len(scenes)), torch.as_tensor(scenes.texture)]
    return (waves * 1.5 + 0.5).clamp(0, 1)


def _scene(scenes: Scenes, thing: Placed, pattern: Tensor) -> Tensor:
    """Return the images before their style, (n, 3, SIDE, SIDE)."""
    first = _real(scenes.object_rgb)
    second = torch.where(first.mean(1, keepdim=True) > 0.32, first * 0.35, first * 0.6 + 0.3)
    surface = _paint(first[:, :, None, None].expand(-1, -1, SIDE, SIDE), pattern, second[:, :, None, None])
    wall = _ink((thing.distance + 1.1 * PIXEL).abs() - 1.1 * PIXEL)
    hollow = torch.as_tensor(scenes.texture == 5)[:, None, None]
    image = _paint(_ground(scenes), torch.where(hollow, wall, _ink(thing.distance)), surface)
    x, y = _grid()
    slope = _real(scenes.shade)[:, :, None, None]
    shade = (1 + slope[:, 0] * x + slope[:, 1] * y) * _real(scenes.light)[:, None, None]
    return image * shade[:, None]


def _ground(scenes: Scenes) -> Tensor:
    """Return the backgrounds with their clutter."""
    image = _real(scenes.ground_rgb)[:, :, None, None].repeat(1, 1, SIDE, SIDE)
    for k in range(CLUTTER):
        rows = np.flatnonzero(scenes.clutter[:, k])
        things = place(
            scenes.clutter_shape[rows, k], scenes.clutter_centre[rows, k], scenes.clutter_scale[rows, k],
            scenes.phase[rows], scenes.flip[rows], scenes.aspect[rows],
        )  # fmt: skip
        image[rows] = _paint(image[rows], _ink(things.distance), _real(scenes.clutter_rgb[rows, k])[:, :, None, None])
    return image


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
