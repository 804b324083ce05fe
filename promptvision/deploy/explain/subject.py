"""A trained run and the images that it is explained by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from promptvision.backbones import CLIP, ImageTower
from promptvision.config.families import FAMILIES
from promptvision.data.images import Item
from promptvision.data.transforms import Transform
from promptvision.deploy.classifier import Classifier
from promptvision.errors import InputError, counted
from promptvision.experiment.build import load_backbone
from promptvision.experiment.data import load_data
from promptvision.experiment.prediction.inputs import find_images, open_entry, shown_entry
from promptvision.method import Method

LOG = logging.getLogger(__name__)
SHOWN = 4
"""Images that maps are drawn of, if none are named."""
MOST = 16
"""Images that maps are drawn of at most."""
POINTS = 500
"""Test images in a map of features at most."""


@dataclass(frozen=True)
class Seen:
    """An image that maps are drawn of."""

    name: str
    label: str
    """Its class, "" if that is not known."""
    pixels: np.ndarray
    """(H, W, 3) from 0 to 1, what the method sees of it."""
    input: Tensor
    """(3, H, W), normalised."""


@dataclass(frozen=True)
class Subject:
    """A trained method, the image tower as it was before, and the images that both are shown."""

    cfg: CfgNode
    method: Method
    frozen: ImageTower
    transform: Transform
    images: list[Seen]
    tests: Sequence[Item]
    """Test images of the run, evenly spread; none if they are not here."""
    open: Callable[[str], Image.Image]

    @property
    def device(self) -> torch.device:
        """The device of the method."""
        return next(self.method.backbone.parameters()).device

    def batch(self) -> Tensor:
        """Return the images (B, 3, H, W) on the device."""
        return torch.stack([seen.input for seen in self.images]).to(self.device)


def load_subject(classifier: Classifier, names: Sequence[str]) -> Subject:
    """Return a run's method with the backbone that it started from, and images.

    `classifier`: one that computes all tokens of every block (COMPUTE.WAY plain). `names`: files, folders and globs of
    images; if empty, a test image of each of the first classes.
    """
    cfg, method, transform = classifier.cfg, classifier.method.eval(), classifier.transform
    backbone = load_backbone(cfg, FAMILIES)
    frozen: ImageTower = backbone.image if isinstance(backbone, CLIP) else backbone
    tests, opener = _tests(cfg, required=not names)
    if names:
        images = named_images(transform, names)
    else:
        first = {name: path for path, _, name in reversed(tests)}
        chosen = [(first[name], name) for name in sorted(first)[:SHOWN]]
        images = [seen_as(transform, path, name, opener(path)) for path, name in chosen]
    step = max(1, -(-len(tests) // POINTS))
    return Subject(cfg, method, frozen.to(classifier.device), transform, images, tests[::step], opener)


def named_images(transform: Transform, names: Sequence[str]) -> list[Seen]:
    """Return the first MOST images of files, folders and globs."""
    found = find_images(names)
    if len(found) > MOST:
        LOG.warning("Maps are drawn of the first %d of %s", MOST, counted(len(found), "image"))
    entries = [found.entry(number) for number in range(min(MOST, len(found)))]
    return [seen_as(transform, shown_entry(entry), "", open_entry(entry)) for entry in entries]


def _tests(cfg: CfgNode, *, required: bool) -> tuple[list[Item], Callable[[str], Image.Image]]:
    """Return the test images of a run and how to open them; none, unless they are `required`, if they are not here."""
    try:
        images = load_data(cfg).images
    except InputError:
        if required:
            raise
        return [], open_entry
    return getattr(images, cfg.TEST.SPLIT), images.open


def seen_as(transform: Transform, name: str, label: str, image: Image.Image) -> Seen:
    """Return an image as a method sees it."""
    pixels = first_view(transform.pixels(image))
    return Seen(name, label, as_array(pixels), transform.finish(pixels))


def as_array(pixels: Tensor) -> np.ndarray:
    """Return an image (3, H, W), of uint8 or of floats from 0 to 1, as an array (H, W, 3) from 0 to 1."""
    return (pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)).permute(1, 2, 0).numpy()


def first_view(pixels: Tensor) -> Tensor:
    """Return an image (3, H, W), of several views (V, 3, H, W) the first, the image itself."""
    return pixels[0] if pixels.dim() == 4 else pixels
