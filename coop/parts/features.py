"""Features of whole sets of images, for methods that need nothing else of them."""

from __future__ import annotations

import torch
from torch import Tensor

from promptvision.backbones import CLIP
from promptvision.method import Batches


@torch.no_grad()
def all_features(clip: CLIP, batches: Batches) -> tuple[Tensor, Tensor]:
    """Image features (N, E), not normalised, in float32, and labels (N,), both where the CLIP is."""
    device = clip.logit_scale.device
    found = [(clip.image.as_features(images.to(device)).float(), labels.to(device)) for images, labels in batches]
    if not found:
        return torch.empty(0, clip.image.feature_dim, device=device), torch.empty(0, dtype=torch.long, device=device)
    return torch.cat([features for features, _ in found]), torch.cat([labels for _, labels in found])
