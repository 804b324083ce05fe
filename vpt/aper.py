"""APER: a ViT tuned on the first task beside the pretrained one, and class means (Zhou et al., arXiv:2303.07338)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from vpt.parts.first_task import FirstTask


class APER(FirstTask):
    """SimpleCIL on the pretrained feature and that of a host tuned on the first task, joined.

    Learns what the host learns without its head, and `prototypes` (C, 2 E), of which the pretrained feature comes
    first; rows of classes without images are zero. Keeps `task_of` (C,), the task of each class. A host that changes
    the backbone itself, such as `full`, would need a second one for the pretrained feature, and is refused.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        host: str = "adapter",
        head_init: str = "cosine",
        **of_host: Any,
    ):
        super().__init__(backbone, classes, host=host, head_init=head_init, **of_host)
        self.register_buffer("prototypes", torch.zeros(len(classes), 2 * backbone.feature_dim))

    def represent(self, images: Tensor) -> Tensor:
        return torch.cat([self.backbone(images), self.features(images)], dim=1)
