"""CoPrompt: consistency-guided prompt learning (Roy and Etemad, ICLR 2024, arXiv:2306.01195)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.clip_adapter import bottleneck, mixed
from coop.maple import MaPLe
from coop.parts.objective import Step
from coop.parts.teacher import ENSEMBLES, Descriptions, filled
from coop.parts.texts import read_texts
from promptvision.backbones import CLIP
from promptvision.backbones.classes.shares import shared
from promptvision.errors import InputError
from promptvision.method import Batches


class CoPrompt(MaPLe):
    """MaPLe with an adapter after each tower, whose features stay near those of CLIP without prompts.

    Two terms, 1 - cosine each: of the class features to those of other texts of the classes, and of the image features
    to those of a second augmented view of the images. A feature f that is compared is ratio A(f) + (1 - ratio) f.

    `weight`: weight of both terms. `image_ratio`, `text_ratio`: share of the adapter's output in the compared feature.
    `reduction`: E over the width of an adapter's bottleneck. `texts`: a YAML or JSON file with the other texts of each
    class (`read_texts`), of which every step draws one; CLIP's 80 templates if empty. `same_text`: draw one text index
    for all classes, as the official code does, instead of one for each. `n_ctx`, `depth`, `ctx_init` as in MaPLe.
    Learns the tensors of MaPLe, and `adapter_{image,text}.fc`.
    """

    wants_second_view = True

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 2, depth: int = 2, ctx_init: str = "a photo of a", weight: float = 1.0,
        image_ratio: float = 0.1, text_ratio: float = 0.2, reduction: int = 4,
        texts: str = "", same_text: bool = False,
    ):  # fmt: skip
        super().__init__(backbone, classes, n_ctx=n_ctx, depth=depth, ctx_init=ctx_init)
        for name in ("image_ratio", "text_ratio"):
            if not 0 <= self.options[name] <= 1:
                raise InputError(f"{name} is {self.options[name]:g}; it takes a number from 0 to 1 (only the adapter)")
        for name, least in (("weight", 0), ("reduction", 1)):
            if self.options[name] < least:
                raise InputError(f"{name} is {self.options[name]:g}; it must be at least {least}")
        self.adapter_image, self.adapter_text = (
            nn.ModuleDict({"fc": bottleneck(backbone.image.feature_dim, reduction, last_relu=True)}) for _ in range(2)
        )
        self.terms = {"text": (weight, self.text_term), "image": (weight, self.image_term)}

    @cached_property
    def teacher(self) -> Descriptions:
        """The other texts, which training alone reads."""
        file, names = self.options["texts"], self.classes
        own = read_texts(file, names) if file else filled(ENSEMBLES["imagenet"], names)
        return Descriptions(own, self.options["same_text"])

    def prepare(self, train: Batches, val: Batches) -> None:
        """Read the other texts, so that a fault is found before training."""
        self.teacher  # noqa: B018

    def image_features(self, images: Tensor) -> Tensor:
        return mixed(super().image_features(images), self.adapter_image["fc"], self.options["image_ratio"])

    def text_features(self) -> Tensor:
        return mixed(super().text_features(), self.adapter_text["fc"], self.options["text_ratio"])

    def loss(self, images: Tensor, labels: Tensor, second_view: Tensor) -> Tensor:  # type: ignore[override]
        """Return the mean cross-entropy plus the two terms; images and second views (B, 3, H, W)."""
        features, texts = self.image_features(images), shared(self.text_features)
        step = Step(images, labels, features, texts, self.logits(features, texts), {"second view": second_view})
        terms = [weight * term(step) for weight, term in self.terms.values() if weight]
        return torch.stack([self.cross_entropy(step.logits, labels), *terms]).sum()

    def text_term(self, step: Step) -> Tensor:
        """Return the mean over classes of 1 - cosine with the features of another text."""
        return distance(step.text_features, self.teacher.drawn(self.backbone))

    def image_term(self, step: Step) -> Tensor:
        """Return the mean over images of 1 - cosine with the features of the second view, without prompts."""
        second_view = step.made["second view"]
        return distance(step.image_features, self.teacher.image_features(self.backbone, second_view))


def distance(features: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean of 1 - cosine of features (N, E) with normalised ones."""
    return 1 - (F.normalize(features, dim=-1) * wanted).sum(dim=-1).mean()
