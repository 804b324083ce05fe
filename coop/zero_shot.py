"""Zero-shot CLIP: hand-written prompts, nothing learned (Radford et al., arXiv:2103.00020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from torch import Tensor

from coop.context import class_text
from promptvision.backbones import CLIP
from promptvision.errors import InputError, unknown
from promptvision.method import Method

ENSEMBLES: dict[str, list[str]] = {
    "": [],
    "select": [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES],
    "imagenet": [template("{}") for template in OPENAI_IMAGENET_TEMPLATES],
}
"""CLIP's lists of templates: none, the selected 7, all 80."""


class ZeroShot(Method):
    """Class features from templates: normalised, averaged over the templates, normalised again.

    `templates`: texts with `{}` for the class name; none means "a photo of a {}." unless an ensemble is chosen.
    `ensemble`: "select" or "imagenet" puts CLIP's 7 or 80 templates before them, as CoOp's `ZeroshotCLIP2` does.
    """

    backbone: CLIP
    frozen_images = True
    features: Tensor

    def __init__(self, backbone: CLIP, classes: Sequence[str], *, templates: Sequence[str] = (), ensemble: str = ""):
        super().__init__(backbone, classes)
        if ensemble not in ENSEMBLES:
            raise unknown("ensemble", ensemble, [name for name in ENSEMBLES if name])
        templates = [templates] if isinstance(templates, str) else list(templates)
        for template in templates:
            if "{}" not in template:
                raise InputError(f"template {template!r} has no {{}} where the class name goes")
        self.templates = ENSEMBLES[ensemble] + templates or ["a photo of a {}."]
        self.options = dict(templates=templates, ensemble=ensemble)
        self.register_buffer("features", self._class_features(), persistent=False)

    @torch.no_grad()
    def _class_features(self) -> Tensor:
        names = [class_text(name) for name in self.classes]
        per_template = [
            F.normalize(self.backbone.text([template.replace("{}", name) for name in names]), dim=-1)
            for template in self.templates
        ]
        return F.normalize(torch.stack(per_template).mean(dim=0), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.logits(self.backbone.image.as_features(images), self.features)

    def for_classes(self, names: Sequence[str]) -> Method:
        return ZeroShot(self.backbone, names, **self.options).to(self.features.device)  # type: ignore[arg-type]
