"""Patterns of surfaces, textures of things, and land from above, as functions of the coordinates of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Wave = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A pattern of u, v (m, ...) in radians and a phase (m, 1, 1): positive where the second tone is."""


def _bricks(u: Tensor, v: Tensor, phase: Tensor) -> Tensor:
    row = torch.floor((v + phase) / math.pi)
    joint = torch.minimum(torch.cos(v * 2 + 2 * phase).neg() + 0.75, torch.cos(u + row * math.pi).neg() + 0.85)
    return -joint


WAVES: dict[str, Wave] = {
    "striped": lambda u, v, phase: torch.sin(u + 0.3 * v + phase),
    "dotted": lambda u, v, phase: torch.cos(u + phase) + torch.cos(v + phase) - 0.6,
    "checkered": lambda u, v, phase: 2 * torch.sin(0.8 * u + phase) * torch.sin(0.8 * v + phase),
    "spiral": lambda u, v, phase: torch.sin((u**2 + v**2).sqrt() + torch.atan2(v, u) + phase),
    "wavy": lambda u, v, phase: torch.sin(v + 1.3 * torch.sin(0.7 * u) + phase),
    "zigzag": lambda u, v, phase: torch.sin(v * 1.2 + 2.2 * torch.asin(torch.sin(u * 0.8)) + phase),
    "grid": lambda u, v, phase: torch.maximum(torch.cos(0.8 * u + phase), torch.cos(0.8 * v + phase)) - 0.75,
    "bricked": _bricks,
    "ringed": lambda u, v, phase: torch.sin((u**2 + v**2).sqrt() * 1.1 + phase),
    "speckled": lambda u, v, phase: (
        torch.sin(3.1 * u + 5.3 * torch.sin(1.7 * v + phase)) * torch.sin(2.7 * v + 4.1 * torch.sin(2.3 * u)) - 0.35
    ),
}


def wave(name: str, u: Tensor, v: Tensor, phase: Tensor) -> Tensor:
    """Return the weight of the second tone, 0 to 1, of a pattern; "plain" and "hollow" have none."""
    if name not in WAVES:
        return torch.zeros_like(u)
    return (WAVES[name](u, v, phase) * 1.5 + 0.5).clamp(0, 1)


GREEN, MOSS, SAND, WATER = (0.45, 0.62, 0.30), (0.16, 0.36, 0.16), (0.85, 0.75, 0.50), (0.20, 0.42, 0.70)
TAN, GREY, ROOF = (0.66, 0.58, 0.32), (0.45, 0.45, 0.47), (0.62, 0.30, 0.24)


def _mix(cover: Tensor, over: tuple[float, ...], under: Tensor | tuple[float, ...]) -> Tensor:
    """Blend the colour `over` by `cover` (m, S, S) onto a colour or an image (m, 3, S, S)."""
    below = under if isinstance(under, Tensor) else torch.tensor(under)[:, None, None]
    return below + cover[:, None] * (torch.tensor(over)[:, None, None] - below)


def _edge(distance: Tensor, over: tuple[float, ...], under: Tensor | tuple[float, ...]) -> Tensor:
    """Paint the colour `over` where the distance (m, S, S) is negative."""
    return _mix((0.5 - distance * 14).clamp(0, 1), over, under)


def land(name: str, u: Tensor, v: Tensor, phase: Tensor) -> Tensor:
    """Return land from above (m, 3, S, S) of u, v (m, S, S) in [-1.4, 1.4] and a phase (m, 1, 1)."""
    trees, bushes = (
        torch.sin(rate * u + 2 * torch.sin(0.8 * rate * v + phase)) * torch.sin(rate * v + phase) * 0.5 + 0.5
        for rate in (13.0, 5.0)
    )
    grass = _mix(0.35 * bushes, MOSS, GREEN)
    bend = 0.25 * torch.sin(2.5 * u + phase)
    blob = (u**2 + (1.2 + 0.3 * torch.sin(phase)) * v**2).sqrt() + 0.12 * torch.sin(3 * torch.atan2(v, u) + phase)
    if name == "forest":
        return _mix(trees, GREEN, MOSS) * 0.9
    if name == "meadow":
        return grass
    if name == "field":
        return _mix((torch.sin(14 * u + phase) * 1.5 + 0.5).clamp(0, 1), TAN, GREEN)
    if name == "desert":
        return _mix(0.4 * (torch.sin(7 * v + 2 * torch.sin(2 * u + phase)) * 0.5 + 0.5), TAN, SAND)
    if name == "lake":
        return _edge(blob - 0.62, WATER, grass)
    if name == "river":
        return _edge((v - bend).abs() - 0.2, WATER, grass)
    if name == "road":
        return _edge((v - 0.2 * torch.sin(phase)).abs() - 0.13, GREY, grass)
    if name == "crossroads":
        return _edge(torch.minimum(v.abs(), (u - 0.2 * torch.sin(phase)).abs()) - 0.13, GREY, grass)
    if name == "village":
        return _edge(0.35 - torch.minimum(torch.sin(9 * u + phase), torch.sin(9 * v - phase)), ROOF, grass)
    if name == "coast":
        return _edge(v - 0.3 * bend, WATER, _edge(v - 0.3 * bend - 0.25, SAND, grass))
    return _edge(blob - 0.6, GREEN, _edge(blob - 0.75, SAND, WATER))
