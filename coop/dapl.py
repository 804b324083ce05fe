"""DAPL: domain adaptation via prompt learning (Ge et al., arXiv:2202.06687)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.context import check_width, context_prompts, initial_context, noise, refuse_csc
from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from promptvision.backbones import CLIP
from promptvision.errors import InputError
from promptvision.method import Method

SOURCE, TARGET = 0, 1


class DAPL(FeatureMethod):
    """Contexts shared by two domains and contexts of each, "[ctx] [domain vectors] class , a {domain} image..".

    The labelled source is told apart by the source's prompts, the unlabelled target by its own: an image that
    zero-shot CLIP is sure of, by `template`, counts as labelled so. loss = CE(source) + `weight` x mean of CE over the
    sure target images, 0 if there are none (section 3.3; the official code divides by their number, 0 too).
    Predictions are made by the target's prompts.

    `n_ctx`, `n_dmx`: vectors of both kinds. `csc`: a `ctx` for every class. `source_domain`, `target_domain`: names in
    the prompts; empty for DATASET.SOURCE and DATASET.TARGET. `temperature`: divides zero-shot logits; `threshold`: the
    probability at which a label counts. Learns `ctx` (M, D), or (C, M, D) with `csc`,
    and `domain_vectors` (2, N, D), the source's first.
    """

    backbone: CLIP
    frozen_images = True
    wants_unlabelled = True
    features: Tensor

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int = 16,
        n_dmx: int = 16,
        csc: bool = False,
        source_domain: str = "",
        target_domain: str = "",
        temperature: float = 1.0,
        threshold: float = 0.5,
        weight: float = 1.0,
        template: str = "a photo of a {}.",
    ):
        super().__init__(backbone, classes)
        _check(n_dmx, temperature, threshold)
        self.options = dict(n_ctx=n_ctx, n_dmx=n_dmx, csc=csc, source_domain=source_domain, target_domain=target_domain)
        self.options |= dict(temperature=temperature, threshold=threshold, weight=weight, template=template)
        self.temperature, self.threshold, self.weight = temperature, threshold, weight
        ctx = initial_context(backbone.text, n_ctx, "")
        self.ctx = nn.Parameter(noise(len(classes), *ctx.shape) if csc else ctx)
        self.domain_vectors = nn.Parameter(noise(2, n_dmx, backbone.text.width))
        self.templates = [template]
        self.encoders = nn.ModuleList(
            context_prompts(
                backbone.text,
                classes,
                n_ctx + n_dmx,
                ending=f" , a {_spoken(domain)} image..",  # the code's spaces and full stops
                class_specific=csc,
            )
            for domain in (source_domain or "source", target_domain or "target")
        )
        self.register_buffer("features", class_features(backbone, filled([template], classes)), persistent=False)

    def domain_features(self, domain: int) -> Tensor:
        """(C, E), not normalised: the features of the prompts of SOURCE or TARGET."""
        own = self.domain_vectors[domain]
        own = own.expand(len(self.ctx), -1, -1) if self.ctx.dim() == 3 else own
        return self.encoders[domain](self.backbone.text, torch.cat([self.ctx, own], dim=-2))

    def text_features(self) -> Tensor:
        return self.domain_features(TARGET)

    def pseudo_labels(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Image features (B, E) to labels (B,) by zero-shot CLIP and whether they count (B,)."""
        probabilities = F.softmax(self.logits(features, self.features).float() / self.temperature, dim=-1)
        confidence, labels = probabilities.max(dim=-1)
        return labels, confidence >= self.threshold

    def loss(self, images: Tensor, labels: Tensor, unlabelled: Tensor | None = None) -> Tensor:
        """The objective, a scalar; without `unlabelled` images of the target, its first term."""
        logits = self.logits(self.image_features(images), self.domain_features(SOURCE))
        labelled = F.cross_entropy(self.for_task(logits), labels)
        return labelled if unlabelled is None else labelled + self.weight * self.target_loss(unlabelled)

    def target_loss(self, images: Tensor) -> Tensor:
        """Mean cross-entropy of the target's prompts with the pseudo-labels that count, 0 without any."""
        features = self.image_features(images)
        labels, sure = self.pseudo_labels(features)
        each = F.cross_entropy(self.logits(features, self.domain_features(TARGET)), labels, reduction="none")
        return (each * sure).sum() / sure.sum().clamp(min=1)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        check_width(state, self.backbone.text)
        super().load_learned_state(state)

    def for_classes(self, names: Sequence[str]) -> Method:
        """The same contexts and domain vectors with other class names."""
        refuse_csc(self.options)
        return super().for_classes(names)


def _spoken(domain: str) -> str:
    """Domain names, joined by commas, as they stand in a prompt."""
    return " and ".join(name.strip() for name in domain.split(",") if name.strip())


def _check(n_dmx: int, temperature: float, threshold: float) -> None:
    if n_dmx < 1:
        raise InputError(f"n_dmx is {n_dmx}; every domain needs at least one context vector")
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}; it divides the logits and must be above 0")
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}; it is a probability, from 0 to 1")
