"""A look at a backbone: its sizes, and a training step of each method on it, or the reason why there is none."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from promptvision.backbones import CLIP, ImageTower
from promptvision.engine.optim import build_optimizer
from promptvision.engine.step import Step
from promptvision.errors import InputError, Unknown, unknown
from promptvision.experiment.loaders import image_tower
from promptvision.sweep.completed import Families

NAMES = ["cat", "dog"]
"""Classes of a trial."""


@dataclass(frozen=True)
class Trial:
    """A method with its default options on a backbone: `learned` parameters and the seconds of a training `step`, None
    if it learns nothing step by step; or `why_not`, the sentence in which it refuses."""

    method: str
    learned: int = 0
    step: float | None = None
    why_not: str = ""


def load_all(families: Families, name: str, pretrained: str, size: int) -> dict[str, nn.Module]:
    """Return the backbone of each family that can load this name; raise InputError if none can."""
    found, refusals = dict[str, nn.Module](), list[InputError]()
    for family, module in families.items():
        try:
            found[family] = module.load_backbone(name, pretrained, size)
        except InputError as error:
            refusals.append(error)
    if not found:
        raise _refusal(name, refusals)
    return found


def _refusal(name: str, refusals: Sequence[InputError]) -> InputError:
    """Return what a family that knows the name says of it, else the nearest of the names that the families know."""
    strange = [each for each in refusals if isinstance(each, Unknown) and each.name == name]
    if len(strange) < len(refusals):
        return next(each for each in refusals if each not in strange)
    return unknown("backbone", name, {choice for each in strange for choice in each.choices})


def facts(backbone: nn.Module, batch: int) -> dict[str, str]:
    """Return what a table says of a backbone, with the time of a forward pass of `batch` random images."""
    tower: ImageTower = backbone.image if isinstance(backbone, CLIP) else backbone  # type: ignore[assignment]
    images = torch.randn(batch, 3, tower.image_size, tower.image_size)
    with torch.no_grad():
        tower(images)
        seconds = _seconds(lambda: tower(images))
    patches = f"{tower.patch_size} pixels" if tower.patch_size else "none"
    sizes = {"image size": f"{tower.image_size} pixels", "patch size": patches, "feature": f"{tower.feature_dim}"}
    if tower.blocks:
        sizes |= {"blocks": f"{tower.depth}, width {tower.width}", "tokens before the patches": f"{tower.prefix}"}
    if isinstance(backbone, CLIP):
        text = backbone.text
        sizes["text blocks"] = f"{len(text.blocks)}, width {text.width}, {text.context_length} tokens"
    return {
        **sizes,
        "mean": ", ".join(f"{value:g}" for value in tower.mean),
        "std": ", ".join(f"{value:g}" for value in tower.std),
        "parameters": f"{sum(parameter.numel() for parameter in backbone.parameters()):,}",
        f"forward, {batch} images": f"{1000 * seconds:.1f} ms",
    }


def trials(
    family: ModuleType, backbone: nn.Module, batch: int, methods: Sequence[str] = (), *, times: int = 3
) -> Iterator[Trial]:
    """Yield the trial of each method of a family, or of those named, each on a copy of the backbone.

    A step on `batch` random images, at least one for each class, is the fastest of `times` that follow a first one.
    """
    for name in methods or family.METHODS:
        torch.manual_seed(0)
        try:
            method = family.build(name, copy.deepcopy(backbone), NAMES)
            learned = method.learned_parameters()
            yield Trial(name, learned, _step(method, batch, times))
        except InputError as error:
            yield Trial(name, why_not=str(error))


def _step(method: Any, batch: int, times: int) -> float | None:
    """Train on random images; return the seconds of a step. What learns nothing by steps is fitted, and classifies."""
    size = image_tower(method).image_size
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % len(NAMES)
    train, val = [(images, labels), (images.flip(-1), labels)], [(images, labels)]
    method.prepare(train * max(1, method.prepare_views), val)
    extra = [images] * (method.wants_unlabelled + method.wants_second_view)
    optimizer = build_optimizer("sgd", method.named_parameters(), 1e-4, 0.0, 0.9, method.no_decay)
    if optimizer and not method.image_views:
        method.train()
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        step = Step(method, optimizer, scaler, torch.device("cpu"), "fp32", clip=0.0)
        step.take([(images, labels, *extra)])
        return _seconds(lambda: step.take([(images, labels, *extra)]), times)
    method.eval().finish(train, val)
    views = method.image_views.count if method.image_views else 0
    with torch.no_grad():
        method.predictor()(images[:, None].expand(-1, views, -1, -1, -1) if views else images)
    return None


def _seconds(work: Callable[[], Any], times: int = 3) -> float:
    """Return the least seconds of some calls, NaN for none."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found, default=math.nan)
