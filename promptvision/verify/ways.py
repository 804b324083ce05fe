"""The exact fast way against the plain way, on the weights that are there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones import ImageTower, TextTower
from promptvision.backbones.compute import Compute
from promptvision.backbones.fast_text import known_views
from promptvision.engine.device import autocast
from promptvision.method import Method
from promptvision.verify.check import ABSENT, Answer, judged

MARGIN, FLOOR = 5.0, 1e-6
"""The fast way may err MARGIN times as much as the plain way does, and FLOOR more."""


def compare_ways(method: Method, tower: ImageTower | TextTower, inputs: Tensor, labels: Tensor, half: str) -> Answer:
    """Compare logits and gradients of a method in the fast and in the plain way, in fp32 and in precision `half`.

    Neither is exact: the errors of both are taken against the plain way in float64, in 16 bits against that in fp32.
    `tower`: the one whose blocks the prompts go through. `inputs`: images, or their features.
    """
    views = known_views(tower) if isinstance(tower, TextTower) else tower.views()
    if not views:
        return Answer(ABSENT, "this tower has blocks that the fast way does not know, or none: the plain way is used")
    exact = numbers(copy.deepcopy(method).double(), inputs.double(), labels, "plain", "fp32")
    single = {way: numbers(method, inputs, labels, way, "fp32") for way in ("plain", "fast")}
    faults, told = [], []
    for precision, reference in (("fp32", exact), (half, single["plain"])):
        found = single
        if precision == half:
            found = {way: numbers(method, inputs, labels, way, half) for way in ("plain", "fast")}
        fast, plain = (max(errors(found[way], reference)) for way in ("fast", "plain"))
        told.append(f"{precision}: relative error {fast:.1e}, plain way {plain:.1e}")
        faults += [told[-1]] if not fast <= MARGIN * plain + FLOOR else []
    return judged(faults, "; ".join(told))


def numbers(method: Method, inputs: Tensor, labels: Tensor, way: str, precision: str) -> list[Tensor]:
    """Return logits (B, C) and the gradient of every learned tensor, computed one way."""
    backbone: Any = method.backbone
    backbone.compute = Compute(way)
    method.zero_grad(set_to_none=True)
    with autocast(inputs.device, precision):
        logits = method(inputs)
        loss = F.cross_entropy(logits, labels)
    loss.backward()
    return [logits.detach(), *(p.grad for p in method.parameters() if p.grad is not None)]


def errors(found: list[Tensor], reference: list[Tensor]) -> Iterator[float]:
    """Yield the relative error of each tensor, by its Euclidean norm."""
    for ours, exact in zip(found, reference, strict=True):
        yield float((ours.double() - exact.double()).norm() / exact.double().norm())
