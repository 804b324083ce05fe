"""Zero-shot CLIP: hand-written prompts, nothing learned (Radford et al., arXiv:2103.00020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from torch import Tensor

from coop.context import class_text
from coop.texts import read_texts
from promptvision.backbones import CLIP
from promptvision.errors import InputError, unknown
from promptvision.method import Method

ENSEMBLES: dict[str, list[str]] = {
    "": [],
    "select": [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES],
    "imagenet": [template("{}") for template in OPENAI_IMAGENET_TEMPLATES],
}
"""CLIP's lists of templates: none, the selected 7, all 80."""


AT_ONCE = 256
"""Texts that are encoded together."""


@torch.no_grad()
def class_features(clip: CLIP, texts: Sequence[Sequence[str]]) -> Tensor:
    """(C, E): the features of the texts of each class, normalised, averaged, normalised again."""
    flat = [text for own in texts for text in own]
    blocks = [clip.text(flat[start : start + AT_ONCE]) for start in range(0, len(flat), AT_ONCE)]
    per_class = F.normalize(torch.cat(blocks), dim=-1).split([len(own) for own in texts])
    return F.normalize(torch.stack([features.mean(dim=0) for features in per_class]), dim=-1)


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
        names = [class_text(name) for name in classes]
        filled = [[template.replace("{}", name) for template in self.templates] for name in names]
        own = read_texts(texts, classes) if texts else filled
        self.register_buffer("features", class_features(backbone, own), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.logits(self.backbone.image.as_features(images), self.features)

    def for_classes(self, names: Sequence[str]) -> Method:
        return ZeroShot(self.backbone, names, **self.options).to(self.features.device)  # type: ignore[arg-type]


def _templates(templates: Sequence[str], ensemble: str) -> list[str]:
    if ensemble not in ENSEMBLES:
        raise unknown("ensemble", ensemble, [name for name in ENSEMBLES if name])
    given = [templates] if isinstance(templates, str) else list(templates)
    for template in given:
        if "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} where the class name goes")
    return ENSEMBLES[ensemble] + given or ["a photo of a {}."]
