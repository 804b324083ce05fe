"""The images that may be learned from, encoded once by the backbone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.backbones import CLIP
from promptvision.engine.device import autocast
from promptvision.experiment.build import load_method
from promptvision.experiment.data import Data
from promptvision.experiment.loaders import Setup, feature_cache, image_tower
from promptvision.sweep.completed import Families

TIMED = 16
"""Images by which the time to encode one is measured."""


@dataclass(frozen=True)
class Pool:
    """The images that may be learned from: `rows` of their `features` (N, E) by path, and their `labels` (N,).

    `seconds`: the time to encode one.
    """

    rows: Mapping[str, int]
    features: Tensor
    labels: Tensor
    seconds: float

    def of(self, paths: Iterable[str]) -> tuple[Tensor, Tensor]:
        """Return features and labels of some images."""
        chosen = [self.rows[path] for path in paths]
        return self.features[chosen], self.labels[chosen]


def setup_of(cfg: CfgNode, families: Families, data: Data) -> Setup:
    """Return the method of a config on its data, with the feature cache."""
    method = load_method(cfg, families, data.classes)
    return Setup(cfg, data, method, feature_cache(cfg, method, data.everything, progress=True), True)


def seconds_to_encode(setup: Setup) -> float:
    """Return the seconds to read and encode an image: the faster of two passes over a few."""
    images, found = setup.data.images, list[float]()
    some = replace(setup, cache=None).on(replace(images, train=images.train[:TIMED]))
    with torch.no_grad(), autocast(setup.device, setup.cfg.TRAIN.PRECISION):
        for _ in range(2):
            started = time.perf_counter()
            for batch, _ in some.test_loader("train"):
                image_tower(setup.method)(batch.to(setup.device)).cpu()
            found.append((time.perf_counter() - started) / len(some.data.images.train))
    return min(found)


def encode(setup: Setup, seconds: float) -> Pool:
    """Encode the training images; their features are cached for all runs."""
    loader: Any = setup.test_loader("train")
    parts = [(features, labels) for features, labels in loader]
    rows = {path: number for number, (path, _, _) in enumerate(setup.data.images.train)}
    features = torch.cat([image_features(setup.method, each) for each, _ in parts])
    return Pool(rows, features, torch.cat([labels for _, labels in parts]), seconds)


@torch.no_grad()
def image_features(method: Any, batch: Tensor) -> Tensor:
    """Return the features (B, E) of a batch of images, or of one that already consists of features."""
    return image_tower(method).as_features(batch.to(next(method.backbone.parameters()).device)).float().cpu()


@torch.no_grad()
def text_features(setup: Setup, families: Families, templates: Sequence[str]) -> Tensor:
    """Return the normalised feature of each class in each template, (T, C, E)."""
    clip = setup.method.backbone
    assert isinstance(clip, CLIP)
    build = families[setup.cfg.METHOD.FAMILY].build
    return torch.stack(
        [build("zero_shot", clip, setup.data.classes, templates=[each]).features.cpu() for each in templates]
    )
