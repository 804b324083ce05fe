"""Skip Tuning: fine-tuning upper blocks alone, with some of the classes (Wu et al., CVPR 2025, arXiv:2412.11509)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import Teacher
from coop.parts.texts import given_templates
from coop.parts.upper_blocks import UpperImage, UpperText, check_towers
from promptvision.backbones import CLIP
from promptvision.backbones.image import below
from promptvision.errors import InputError, counted

TAKEN = 1e4
"""The similarity that puts the labels of a batch before all other classes."""


class SkipTuning(FeatureMethod):
    """The upper blocks of both towers, fine-tuned on the classes that are most similar to the images of a step.

    The lower blocks stay frozen: their outputs are computed once for the texts, and for images once per view that
    `TRAIN.CACHE` keeps. A step ranks the classes by the largest similarity of an image to their zero-shot texts, the
    labels first; it keeps the first ranks, and each later one with a probability that falls exponentially.

    `start_layer`: the first block that learns, counted from 0. `top_ratio`: share of the classes that are always kept,
    or, above 1, their number; 1 keeps all. `max_top`: the most classes that are always kept. `decay`: the paper's
    lambda, scale of the exponential density on 0 to 5. `redraw`: draw the later ranks in every step; false draws them
    once per run, as the official code does. `keep_labels`: keep the labels of a batch even if they outnumber the first
    ranks; the official code takes a label that is not kept for the first class. `image_rate`: learning rate of the
    image tower over that of the text tower. `fp16_weights`: round what is learned to fp16 before every step, as
    weights in fp16 are. `templates`: the text, with `{}` for the class name.
    Learns `{text,image}_encoder.transformer.resblocks.{i}`, their last norms and projections.
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        start_layer: int = 1, top_ratio: float = 0.5, max_top: int = 50, decay: float = 0.3, redraw: bool = True,
        keep_labels: bool = True, image_rate: float = 0.25, fp16_weights: bool = False, templates: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(backbone, classes)
        check_towers(backbone, start_layer)
        self.frozen_blocks = start_layer
        for name in ("top_ratio", "max_top", "decay", "image_rate"):
            if self.options[name] <= 0:
                raise InputError(f"{name} is {self.options[name]:g}; it must be positive")
        given = given_templates(templates)
        if len(given) > 1:
            raise InputError(f"templates: Skip Tuning takes one text for each class, not {counted(len(given), 'text')}")
        self.templates, self.teacher = given, Teacher(classes, given)
        texts = [text for own in self.teacher.texts for text in own]
        self.text_encoder = UpperText(backbone.text, start_layer, texts)  # type: ignore[arg-type]
        self.image_encoder = UpperImage(backbone.image, start_layer)  # type: ignore[arg-type]
        names = (name for name, _ in self.named_parameters() if name.startswith("image_encoder."))
        self.rate_factors = dict.fromkeys(names, image_rate)
        self.drawn = int(torch.randint(2**62, ()))
        self.loss_is_mean = self.always_kept(len(classes)) == len(classes)

    def image_features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W), or rows of `entered`, into features (B, E)."""
        with torch.no_grad():
            tokens = below(self.backbone.image, images, self.frozen_blocks)
        return self.image_encoder(self.backbone.image, tokens)

    def text_features(self) -> Tensor:
        return self.text_encoder.features(self.backbone.text)  # type: ignore[arg-type]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy among the classes that are kept, a scalar."""
        if self.options["fp16_weights"]:
            self.round_weights()
        features = self.image_features(images)
        kept = self.kept_classes(features.detach(), labels)
        texts = self.text_encoder.features(self.backbone.text, kept)  # type: ignore[arg-type]
        return self.cross_entropy(self.logits(features, texts), labels, columns=kept)

    @torch.no_grad()
    def round_weights(self) -> None:
        """Round the learned tensors to fp16."""
        for parameter in self.trained().values():
            parameter.copy_(parameter.half())

    @torch.no_grad()
    def kept_classes(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the classes (K,) that a batch of image features (B, E) is compared with, in ascending order."""
        device = features.device
        among = self.task_places.to(device) if self.task_labels else torch.arange(len(self.classes), device=device)
        if self.always_kept(len(among)) == len(among):
            return among
        known = self.teacher.text_features(self.backbone)[among]
        similar = (F.normalize(features, dim=-1) @ known.to(features.dtype).T).float()
        own = labels[:, None] == among
        best = similar.masked_fill(own, TAKEN).amax(dim=0)
        kept = torch.empty_like(best, dtype=torch.bool)
        kept[best.argsort(descending=True, stable=True)] = self.kept_ranks(len(among)).to(device)
        return among[kept | own.any(dim=0) if self.options["keep_labels"] else kept]

    def always_kept(self, classes: int) -> int:
        """Return how many ranks, of as many as there are classes, are kept in every step."""
        ratio = self.options["top_ratio"]
        if ratio == 1:
            return classes
        count = math.ceil(ratio * classes) if ratio < 1 else math.ceil(min(ratio, classes))
        return min(count, self.options["max_top"])

    def kept_ranks(self, classes: int) -> Tensor:
        """Draw which ranks (C,) are kept."""
        generator = None if self.options["redraw"] else torch.Generator().manual_seed(self.drawn)
        first, scale = self.always_kept(classes), self.options["decay"]
        density = torch.linspace(0, 5, classes - first).div(-scale).exp()
        least = math.exp(-5 / scale)
        drawn = torch.rand(classes - first, generator=generator) < (density - least) / (1 - least)
        return torch.cat([torch.ones(first, dtype=torch.bool), drawn])
