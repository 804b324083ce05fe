"""Answers about images: names with probabilities, attention, and the nearest training images, as a piece of HTML."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.deploy.classifier import Classifier
from promptvision.deploy.explain.attention import class_attention
from promptvision.deploy.explain.subject import as_array, first_view
from promptvision.deploy.thumbnails import data_uri
from promptvision.errors import InputError, counted, one_line
from promptvision.experiment.data import load_data
from promptvision.experiment.loaders import image_tower
from promptvision.report.page.template import render

LOG = logging.getLogger(__name__)
MOST = 16
"""Images in one question."""
TOP = 5
"""Classes, and nearest training images, of an answer."""
KNOWN = 2000
"""Training images, evenly spread, among which the nearest are searched for."""
SIDE = 160
"""Pixels of an image in an answer."""


@dataclass(frozen=True)
class Neighbours:
    """Training images of a run with their features at length 1."""

    images: Images
    items: list[Item]
    features: Tensor

    def nearest(self, feature: Tensor) -> list[dict[str, str]]:
        """Return thumbnails and classes of the images nearest to a feature (E,), by cosine."""
        places = (self.features @ F.normalize(feature, dim=-1)).topk(min(TOP, len(self.items))).indices.tolist()
        chosen = [self.items[place] for place in places]
        return [{"name": name, "image": data_uri(self.images.open(path), SIDE // 2)} for path, _, name in chosen]


def neighbours_of(classifier: Classifier) -> Neighbours | None:
    """Return the training images of a run with their features, or None, with a warning, if they cannot be read."""
    try:
        images = load_data(classifier.cfg).images
        items = images.train[:: max(1, -(-len(images.train) // KNOWN))]
        if not items:
            return None
        features = classifier.features([images.open(path) for path, _, _ in items])
    except InputError as error:
        LOG.warning("No nearest training images are shown: %s", error)
        return None
    return Neighbours(images, items, F.normalize(features, dim=-1))


class Answers:
    """Answers about files by a classifier that computes all tokens of every block (COMPUTE.WAY plain)."""

    def __init__(self, classifier: Classifier, neighbours: Neighbours | None):
        self.classifier, self.neighbours = classifier, neighbours

    def __call__(self, files: Sequence[str] | None) -> str:
        """Return the HTML about up to MOST files, each with an answer or a sentence that says what is wrong."""
        given = list(files or [])
        answers = [self.about(path) for path in given[:MOST]]
        if len(given) > MOST:
            error = f"only the first {MOST} of {counted(len(given), 'file')} were looked at; drop fewer at a time"
            answers.append({"name": "Too many files", "error": error})
        return render("answers.html", answers=answers)

    def about(self, path: str) -> dict[str, Any]:
        """Return what the page shows of one file."""
        name = one_line(Path(path).name)
        try:
            image = open_image("", path)
            top = self.classifier(image, TOP)
        except InputError as error:
            return {"name": name, "error": str(error).replace(path, name)}
        nearest = self.neighbours.nearest(self.classifier.features(image)[0]) if self.neighbours else []
        found = {"name": name, "image": data_uri(image, SIDE), "attention": self.attention(image), "error": ""}
        return found | {"top": top, "nearest": nearest}

    def attention(self, image: Image.Image) -> str:
        """Return the class token's attention in the last block, laid over the image as the method sees it, or ""."""
        pixels = first_view(self.classifier.transform.pixels(image))
        tower, predictor = image_tower(self.classifier.method), self.classifier.predictor
        try:
            found = class_attention(tower, predictor.features, pixels[None])
        except InputError:
            return ""
        return data_uri(overlay(as_array(pixels), found.patches[-1, 0].float().cpu().numpy()), SIDE)


def overlay(image: np.ndarray, values: np.ndarray) -> Image.Image:
    """Lay a map (h, w), scaled to its largest value and smoothed, over a grey image (H, W, 3) of 0 to 1."""
    from matplotlib import colormaps

    scaled = Image.fromarray((255 * values / max(values.max(), 1e-12)).astype(np.uint8))
    smooth = np.asarray(scaled.resize(image.shape[1::-1], Image.Resampling.BILINEAR)) / 255
    mixed = 0.4 * image.mean(axis=2, keepdims=True) + 0.6 * colormaps["magma"](smooth)[..., :3]
    return Image.fromarray((255 * mixed.clip(0, 1)).astype(np.uint8))
