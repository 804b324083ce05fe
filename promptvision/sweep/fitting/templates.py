"""Prompt templates chosen on training images: the discrete kind of automatic prompt, greedily from a shipped list."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.safe_yaml import read_yaml

TABLE = Path(__file__).with_name("templates.yaml")
MOST = 5
"""Templates of an ensemble."""


def all_templates() -> list[str]:
    """Return the templates that ship with promptvision, the most general first."""
    return list(read_yaml(TABLE, "table of templates"))


def choose_templates(features: Tensor, labels: Tensor, texts: Tensor, scale: float, most: int = MOST) -> list[int]:
    """Return the numbers of the templates whose ensemble classifies the images best, in the order of their choice.

    `features` (N, E) and `labels` (N,) of the images; `texts` (T, C, E), the normalised feature of each class in each
    template; `scale`: CLIP's factor of the cosine. Each step adds the template with which the accuracy is highest, and
    among equals the cross-entropy lowest, as long as that is better than without it.
    """
    images = F.normalize(features.float(), dim=-1)
    chosen: list[int] = []
    best, total = (-1.0, 0.0), torch.zeros_like(texts[0])
    while len(chosen) < min(most, len(texts)):
        scores = [_score(images, labels, total + text, scale) for text in texts]
        left = [number for number in range(len(texts)) if number not in chosen]
        number = max(left, key=lambda each: scores[each])
        if scores[number] <= best:
            break
        best, total = scores[number], total + texts[number]
        chosen.append(number)
    return chosen


def _score(images: Tensor, labels: Tensor, texts: Tensor, scale: float) -> tuple[float, float]:
    """Return accuracy and negative cross-entropy of normalised images with the summed texts of the classes."""
    logits = scale * images @ F.normalize(texts, dim=-1).T
    return float((logits.argmax(dim=1) == labels).float().mean()), -float(F.cross_entropy(logits, labels))
