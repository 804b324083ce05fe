"""The pull of learned class features towards hand-written ones (KgCoOp, arXiv:2303.13283, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def squared_distance(features: Tensor, wanted: Tensor) -> Tensor:
    """Mean over classes of the squared distance of normalised features, (C, E) both, `wanted` normalised already.

    The official codes of KgCoOp and TCP take 1 - cosine in its place, which is half of it.
    """
    return (F.normalize(features, dim=-1) - wanted).square().sum(dim=-1).mean()
