"""SimpleCIL: class means of frozen features as a classifier (Zhou et al., arXiv:2303.07338)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from vpt.parts.closed_form import ClosedForm


class SimpleCIL(ClosedForm):
    """The nearest class mean: logits are cosines of an image's feature with the mean feature of each class.

    A task of a stream adds the means of its classes; nothing that was learned changes. Learns `prototypes` (C, E),
    from the images as a test sees them; rows of classes without images are zero. Keeps `task_of` (C,), the task of
    each class.
    """

    frozen_images = True

    def __init__(self, backbone: ImageTower, classes: Sequence[str]):
        super().__init__(backbone, classes)
        self.register_buffer("prototypes", torch.zeros(len(classes), backbone.feature_dim))
        self.register_buffer("task_of", torch.full((len(classes),), -1))

    def features(self, images: Tensor) -> Tensor:
        return self.backbone.as_features(images)
