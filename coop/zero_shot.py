"""Zero-shot CLIP: hand-written prompts, nothing learned (Radford et al., arXiv:2103.00020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

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
    `texts`: a YAML or JSON file of one's own texts per class (`read_texts`), which take the templates' place.
    """

    backbone: CLIP
    frozen_images = True
    features: Tensor

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        templates: Sequence[str] = (),
        ensemble: str = "",
        texts: str = "",
    ):
        super().__init__(backbone, classes)
        self.options = dict(templates=templates, ensemble=ensemble, texts=texts)
        self.templates = [] if texts else _templates(templates, ensemble)
        own = read_texts(texts, classes) if texts else filled(self.templates, classes)
        self.register_buffer("features", class_features(backbone, own), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.logits(self.backbone.image.as_features(images), self.features)

    def for_classes(self, names: Sequence[str]) -> Method:
        return ZeroShot(self.backbone, names, **self.options).to(self.features.device)  # type: ignore[arg-type]


def _templates(templates: Sequence[str], ensemble: str) -> list[str]:
    if ensemble not in ENSEMBLES:
        raise unknown("ensemble", ensemble, [name for name in ENSEMBLES if name])
    given = [templates] if isinstance(templates, str) else list(templates)
    return ENSEMBLES[ensemble] + given or ["a photo of a {}."]
