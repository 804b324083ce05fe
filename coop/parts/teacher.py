"""Zero-shot CLIP as a teacher: frozen features of hand-written texts, and of images without prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from torch import Tensor

from coop.parts.context import class_text
from promptvision.backbones import CLIP
from promptvision.backbones.classes.shares import agreed
from promptvision.errors import InputError
from promptvision.method import Batches

ENSEMBLES: dict[str, list[str]] = {
    "": [],
    "select": [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES],
    "imagenet": [template("{}") for template in OPENAI_IMAGENET_TEMPLATES],
}
"""CLIP's lists of templates: none, the selected 7, all 80."""

AT_ONCE = 256
"""Texts that are encoded together."""


def filled(templates: Sequence[str], classes: Sequence[str], as_given: bool = False) -> list[list[str]]:
    """Fill the `{}` of every template with the name of each class, with spaces for underscores unless `as_given`."""
    for template in templates:
        if "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} where the class name goes")
    names = classes if as_given else [class_text(name) for name in classes]
    return [[template.replace("{}", name) for template in templates] for name in names]


def class_features(clip: CLIP, texts: Sequence[Sequence[str]], each_normalized: bool = True) -> Tensor:
    """Encode the texts of each class into one feature, normalised, averaged and normalised again, (C, E).

    `each_normalized`: false leaves out the first normalisation.
    """
    return F.normalize(mean_features(clip, texts, each_normalized), dim=-1)


@torch.no_grad()
def mean_features(clip: CLIP, texts: Sequence[Sequence[str]], each_normalized: bool = False) -> Tensor:
    """Encode the texts of each class and average them, (C, E); `each_normalized`: normalised before."""
    flat = [text for own in texts for text in own]
    features = torch.cat([clip.text(flat[start : start + AT_ONCE]) for start in range(0, len(flat), AT_ONCE)])
    features = F.normalize(features, dim=-1) if each_normalized else features
    return torch.stack([own.mean(dim=0) for own in features.split([len(own) for own in texts])])


@torch.no_grad()
def all_features(clip: CLIP, batches: Batches) -> tuple[Tensor, Tensor]:
    """Encode whole batches into image features (N, E), not normalised, float32, and labels (N,), on CLIP's device."""
    device = clip.logit_scale.device
    found = [(clip.image.as_features(images.to(device)).float(), labels.to(device)) for images, labels in batches]
    if not found:
        return torch.empty(0, clip.image.feature_dim, device=device), torch.empty(0, dtype=torch.long, device=device)
    return torch.cat([features for features, _ in found]), torch.cat([labels for _, labels in found])


def check_every_class(classes: Sequence[str], labels: Tensor, who: str) -> None:
    """Raise InputError for a class without training images, of which `who` needs one at least."""
    present = set(labels.tolist())
    for label, name in enumerate(classes):
        if label not in present:
            raise InputError(f"class {name!r} has no training image; {who} needs one of every class")


def squared_distance(features: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared distance of normalised class features, (C, E) both; `wanted` is normalised already.

    It pulls learned class features towards hand-written ones (KgCoOp, arXiv:2303.13283, section 3.2). The official
    codes of KgCoOp and TCP use 1 - cosine instead, which is half of it.
    """
    return (F.normalize(features, dim=-1) - wanted).square().sum(dim=-1).mean()


class Teacher:
    """CLIP without prompts as a classifier of images; nothing is computed before it is needed.

    `templates`: texts with `{}` for the class name. `each_normalized`: whether the features of a class's texts are
    normalised before they are averaged. Has no parameters and no reference to the CLIP, which every call is given.
    """

    def __init__(self, classes: Sequence[str], templates: Sequence[str], each_normalized: bool = True):
        self.texts, self.each_normalized = filled(templates, classes), each_normalized
        self._kept: Tensor | None = None

    def text_features(self, clip: CLIP) -> Tensor:
        """Return the normalised class features (C, E), computed in the first call in the backbone's own precision."""
        device = clip.logit_scale.device
        if self._kept is None or self._kept.device != device or self._kept.dtype != clip.logit_scale.dtype:
            with torch.autocast(device.type, enabled=False):
                self._kept = class_features(clip, self.texts, self.each_normalized)
        return self._kept

    @torch.no_grad()
    def image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """Return the normalised features (B, E) of images (B, 3, H, W), or of their features (B, E)."""
        return F.normalize(clip.image.as_features(images), dim=-1)

    @torch.no_grad()
    def logits(self, clip: CLIP, images: Tensor) -> Tensor:
        """Return the zero-shot logits (B, C)."""
        return clip.logits(self.image_features(clip, images), self.text_features(clip))


class Descriptions(Teacher):
    """CLIP without prompts, with several texts for each class, of which a step draws one.

    `texts`: those of each class. `together`: one number is drawn for all classes, which need equally many texts.
    `text_features` are those of all texts (T, E).
    """

    def __init__(self, texts: Sequence[Sequence[str]], together: bool):
        super().__init__([], [])
        self.texts = [[text] for own in texts for text in own]
        self.counts, self.together = torch.tensor([len(own) for own in texts]), together
        if together and len(set(self.counts.tolist())) > 1:
            fewest, most = self.counts.aminmax()
            raise InputError(
                f"texts: the classes have {fewest} to {most} texts, and one number for all needs equally many; set "
                "METHOD.OPTIONS.SAME_TEXT false to draw one for each class"
            )

    def draw(self) -> Tensor:
        """Draw the number (C,) of a text among those of each class."""
        share = torch.rand(1 if self.together else len(self.counts)).double()
        return (share * self.counts).long()

    def drawn(self, clip: CLIP) -> Tensor:
        """Return the normalised features (C, E) of one text of each class."""
        rows, device = self.counts.cumsum(0) - self.counts + self.draw(), clip.logit_scale.device
        return self.text_features(clip)[agreed(rows, device).to(device, non_blocking=True)]
