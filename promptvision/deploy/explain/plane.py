"""Features of images in a plane, before and after a method, as VPT (arXiv:2203.12119) shows them by t-SNE."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.errors import InputError, unknown

KINDS = ("tsne", "pca")
FEWEST = 5
"""Images below which points in a plane say nothing."""


def in_plane(features: Tensor, kind: str, seed: int) -> np.ndarray:
    """Return features (N, E) as points (N, 2): t-SNE of cosines with the usual perplexity of 30, or less for few
    images, or the first two principal components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if kind not in KINDS:
        raise unknown("projection", kind, KINDS)
    if len(features) < FEWEST:
        raise InputError(f"a map of features takes {FEWEST} test images or more, not {len(features)}")
    numbers = F.normalize(features, dim=-1).numpy()
    if kind == "pca":
        return PCA(2, random_state=seed).fit_transform(numbers)
    perplexity = min(30.0, (len(numbers) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(numbers)


def neighbours_agree(features: Tensor, labels: Tensor) -> float:
    """Return the share of features (N, E) whose nearest other one, by cosine, has the same label."""
    vectors = F.normalize(features, dim=-1)
    cosines = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    return (labels[cosines.argmax(dim=1)] == labels).float().mean().item()
