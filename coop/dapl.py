"""DAPL: domain adaptation via prompt learning (Ge et al., arXiv:2202.06687)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.context import context_prompts, initial_context, noise
from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from promptvision.backbones import CLIP
from promptvision.errors import InputError

SOURCE, TARGET = 0, 1


class DAPL(FeatureMethod):
    """Contexts shared by two domains and contexts of each, `[ctx] [domain vectors] class , a {domain} image..`.

    The source's prompts classify the labelled source, the target's the unlabelled target, where an image that zero-shot
    CLIP (with `template`) is sure of has its prediction as label. loss = CE(source) + weight x mean of CE over the
    sure target images, 0 if there are none (section 3.3; the official code divides by their number even if it is 0).
    The target's prompts make the predictions.

    `n_ctx`: number of shared vectors. `n_dmx`: number of vectors of each domain. `csc`: class-specific shared vectors.
    `source_domain`, `target_domain`: names of the domains in the prompts; empty for DATASET.SOURCE and DATASET.TARGET.
    `temperature`: divisor of the zero-shot logits. `threshold`: smallest probability of a zero-shot label that is used.
    `template`: text of the zero-shot labels, with `{}` for the class name. `weight`: factor of the target's loss.
    Learns `ctx` (M, D), or (C, M, D) with `csc`, and `domain_vectors` (2, N, D), the source's first.
    """

    frozen_images = True
    stackable = True
    wants_unlabelled = True
    features: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 16, n_dmx: int = 16, csc: bool = False,
        source_domain: str = "", target_domain: str = "", template: str = "a photo of a {}.",
        temperature: float = 1.0, threshold: float = 0.5, weight: float = 1.0,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        if n_dmx < 1:
            raise InputError(f"n_dmx is {n_dmx}; every domain needs at least one context vector")
        if temperature <= 0:
            raise InputError(f"temperature is {temperature}; it divides the logits and must be above 0")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; it is a probability, from 0 to 1")
        self.temperature, self.threshold, self.weight = temperature, threshold, weight
        ctx = initial_context(backbone.text, n_ctx, "")
        self.ctx = nn.Parameter(noise(len(classes), *ctx.shape) if csc else ctx)
        self.domain_vectors = nn.Parameter(noise(2, n_dmx, backbone.text.width))
        self.templates = [template]
        domains = (source_domain or "source").split(","), (target_domain or "target").split(",")
        spoken = (" and ".join(name.strip() for name in names if name.strip()) for names in domains)
        self.encoders = nn.ModuleList(
            # the spaces and full stops of the official code
            context_prompts(backbone.text, classes, n_ctx + n_dmx, ending=f" , a {domain} image..", class_specific=csc)
            for domain in spoken
        )
        self.register_buffer("features", class_features(backbone, filled([template], classes)), persistent=False)

    def domain_features(self, domain: int) -> Tensor:
        """Encode the prompts of SOURCE or TARGET into class features (C, E), not normalised."""
        own = self.domain_vectors[domain]
        own = own.expand(len(self.ctx), -1, -1) if self.ctx.dim() == 3 else own
        return self.encoders[domain](self.backbone.text, torch.cat([self.ctx, own], dim=-2))

    def text_features(self) -> Tensor:
        return self.domain_features(TARGET)

    def pseudo_labels(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Label image features (B, E) by zero-shot CLIP: labels (B,), and whether they count (B,)."""
        probabilities = F.softmax(self.logits(features, self.features).float() / self.temperature, dim=-1)
        confidence, labels = probabilities.max(dim=-1)
        return labels, confidence >= self.threshold

    def loss(self, images: Tensor, labels: Tensor, unlabelled: Tensor | None = None) -> Tensor:
        """Return the objective, a scalar; without `unlabelled` images of the target, its first term."""
        logits = self.logits(self.image_features(images), self.domain_features(SOURCE))
        labelled = self.cross_entropy(logits, labels)
        return labelled if unlabelled is None else labelled + self.weight * self.target_loss(unlabelled)

    def target_loss(self, images: Tensor) -> Tensor:
        """Return the mean cross-entropy of the target's prompts with the labels that count, 0 without any.

        These are no training labels: neither label smoothing nor class weights change it.
        """
        features = self.image_features(images)
        labels, sure = self.pseudo_labels(features)
        each = F.cross_entropy(self.logits(features, self.domain_features(TARGET)), labels, reduction="none")
        return (each * sure).sum() / sure.sum().clamp(min=1)
