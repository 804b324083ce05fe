"""Zero-shot CLIP: hand-written prompts, nothing learned (Radford et al., arXiv:2103.00020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from coop.parts.teacher import ENSEMBLES, class_features, filled
from coop.parts.texts import read_texts
from promptvision.backbones import CLIP
from promptvision.errors import unknown
from promptvision.method import Method


class ZeroShot(Method):
    """Class features from texts: normalised, averaged over the texts of a class, normalised again.

    `templates`: texts with `{}` for the class name; none means "a photo of a {}." unless an ensemble is chosen.
    `ensemble`: "select" or "imagenet" puts CLIP's 7 or 80 templates before them, as CoOp's `ZeroshotCLIP2` does.
    `texts`: a YAML or JSON file with your own texts per class (`read_texts`), used in place of templates.
    """

    backbone: CLIP
    frozen_images = True
    new_classes = True
    features: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        templates: Sequence[str] = (), ensemble: str = "", texts: str = "",
    ):  # fmt: skip
        super().__init__(backbone, classes)
        if ensemble not in ENSEMBLES:
            raise unknown("ensemble", ensemble, [name for name in ENSEMBLES if name])
        given = [templates] if isinstance(templates, str) else list(templates)
        self.templates = [] if texts else ENSEMBLES[ensemble] + given or ["a photo of a {}."]
        own = read_texts(texts, classes) if texts else filled(self.templates, classes)
        self.register_buffer("features", class_features(backbone, own), persistent=False)

    def zero_shot(self, features: Tensor) -> Tensor:
        """Return the logits (B, C) of image features (B, E), scaled by an option `logit_scale` that is not 0."""
        if scale := self.options.get("logit_scale"):
            return scale * F.normalize(features, dim=-1) @ self.features.T
        return self.backbone.logits(features, self.features)

    def forward(self, images: Tensor) -> Tensor:
        return self.zero_shot(self.backbone.image.as_features(images))
