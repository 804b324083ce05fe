"""Zero-shot CLIP as a teacher: frozen features of hand-written texts, and of images without prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from torch import Tensor

from coop.parts.context import class_text
from promptvision.backbones import CLIP
from promptvision.errors import InputError

ENSEMBLES: dict[str, list[str]] = {
    "": [],
    "select": [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES],
    "imagenet": [template("{}") for template in OPENAI_IMAGENET_TEMPLATES],
}
"""CLIP's lists of templates: none, the selected 7, all 80."""

AT_ONCE = 256
"""Texts that are encoded together."""


def filled(templates: Sequence[str], classes: Sequence[str]) -> list[list[str]]:
    """Every template with the name of each class in the place of its `{}`; one without is refused."""
    for template in templates:
        if "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} where the class name goes")
    return [[template.replace("{}", class_text(name)) for template in templates] for name in classes]


@torch.no_grad()
def class_features(clip: CLIP, texts: Sequence[Sequence[str]], each_normalized: bool = True) -> Tensor:
    """(C, E): the features of the texts of each class, normalised unless told otherwise, averaged, normalised."""
    flat = [text for own in texts for text in own]
    features = torch.cat([clip.text(flat[start : start + AT_ONCE]) for start in range(0, len(flat), AT_ONCE)])
    features = F.normalize(features, dim=-1) if each_normalized else features
    per_class = features.split([len(own) for own in texts])
    return F.normalize(torch.stack([own.mean(dim=0) for own in per_class]), dim=-1)


class Teacher:
    """What the CLIP without prompts says of classes and images; nothing is computed before it is asked for.

    `templates`: texts with `{}` for the class name. `each_normalized`: whether the features of a class's texts are
    normalised before they are averaged. Holds no parameters and no reference to the CLIP, which is given each time.
    """

    def __init__(self, classes: Sequence[str], templates: Sequence[str], each_normalized: bool = True):
        self.texts, self.each_normalized = filled(templates, classes), each_normalized
        self._kept: Tensor | None = None

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, E), normalised, made at the first call, in the backbone's own precision."""
        device = clip.logit_scale.device
        if self._kept is None or self._kept.device != device or self._kept.dtype != clip.logit_scale.dtype:
            with torch.autocast(device.type, enabled=False):
                self._kept = class_features(clip, self.texts, self.each_normalized)
        return self._kept

    @torch.no_grad()
    def image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, E), normalised, of images (B, 3, H, W) or of their features (B, E)."""
        return F.normalize(clip.image.as_features(images), dim=-1)

    @torch.no_grad()
    def logits(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, C): the zero-shot logits."""
        return clip.logits(self.image_features(clip, images), self.text_features(clip))
