"""TaskRes: a residual on CLIP's class features, tuned for the task (Yu et al., CVPR 2023, arXiv:2211.10277)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP


class TaskRes(FeatureMethod):
    """Class features t + alpha x with a frozen t and a learned x that starts at 0.

    `templates`: texts with `{}` for the class name, whose normalised features make t. `alpha`: scale of the residual,
    0.5, and 1 for Oxford Flowers. Learns `residual`, x, (C, E), one row for each class, so it cannot name new ones.
    """

    frozen_images = True
    new_classes = False
    base: Tensor

    def __init__(self, backbone: CLIP, classes: Sequence[str], *, templates: Sequence[str] = (), alpha: float = 0.5):
        super().__init__(backbone, classes)
        self.templates, self.alpha = given_templates(templates), alpha
        self.register_buffer("base", class_features(backbone, filled(self.templates, classes)), persistent=False)
        self.residual = nn.Parameter(torch.zeros_like(self.base))

    def text_features(self) -> Tensor:
        return self.base + self.alpha * self.residual
