"""Runs that train together (engine/together/stack.py): which can, and what they train on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.backbones import ImageTower
from promptvision.engine.device import autocast
from promptvision.engine.distributed import part
from promptvision.experiment.loaders import image_tower
from promptvision.method import Method


def why_alone(cfg: CfgNode, method: Method) -> str:
    """Return why a run cannot compute its steps together with runs of other seeds, rates or shots, "" if it can."""
    if not method.stackable or not method.frozen_images:
        return f"{cfg.METHOD.NAME} with these options computes nothing that its runs could share in a step"
    return "torchrun gives each process a part of every batch" if part()[1] > 1 else ""


def in_features(cfg: CfgNode, method: Method, loader: Any, device: torch.device) -> Any:
    """Return the loader if its batches hold features, which one step of many runs needs, else one that encodes them."""
    return Encoded(loader, image_tower(method), device, cfg.TRAIN.PRECISION) if loader.source == "pictures" else loader


class Encoded:
    """A loader's batches with features (B, E) of the frozen tower in place of images (B, 3, H, W).

    They are computed batch by batch, as the method alone does in its loss.
    """

    source = "pictures"

    def __init__(self, loader: Any, tower: ImageTower, device: torch.device, precision: str):
        self.loader, self.tower, self.device, self.precision = loader, tower, device, precision

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch from number `start` on."""
        for images, *rest in self.loader.epoch(epoch, start):
            with torch.no_grad(), autocast(self.device, self.precision):
                features = self.tower(images.to(self.device))
            yield features, *rest
