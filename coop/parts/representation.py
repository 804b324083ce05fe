"""Representation tokens that enter later blocks of both of CLIP's towers, and what is learned from their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coop.parts.deep_prompts import blocks_of_both
from coop.parts.objective import FeatureMethod, Step
from coop.parts.teacher import Teacher
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.backbones.classes.inserted import InsertedTokens
from promptvision.backbones.fast_image import prompted_outputs
from promptvision.backbones.image import below, entered, parted
from promptvision.errors import InputError


@dataclass(frozen=True)
class Tokens:
    """The tokens that enter each of a method's `layers`, and the projection of their outputs."""

    text: list[Tensor]
    """(K, D) of the text tower."""
    image: list[Tensor]
    """(K, D) of the image tower."""
    projection: Tensor
    """(D, E), of the tokens' averaged outputs."""


class Representations(FeatureMethod):
    """CLIP with K tokens of a shared space that are projected into later blocks of both towers (MMRL, section 3.2).

    The image tower then gives a class feature f_c and a feature f_r of its tokens. Subclasses set
    `representation_learner`, define `tokens` and have the options below.

    `n_tokens`: K, the tokens of each tower. `layers`: the blocks that tokens enter, from 0; if empty, all from the
    middle of the shorter tower on (block 5 of 12). `alpha`: share of f_c in logits and cross-entropy. `weight`: factor
    of the two terms that keep f_c and the class features near CLIP's. `templates`: one text with `{}` for the class
    name. `fuse`: whether predictions use f_r too where all classes were trained on; classes of which any is new are
    predicted by f_c alone. `logit_scale`: factor of the cosines, 0 for the backbone's own (published: 100).
    """

    share: float = 1.0
    """Share of the projected tokens in what enters the blocks after the first."""
    tokens: Callable[[], Tokens]
    projection: Tensor

    def __init__(self, backbone: CLIP, classes: Sequence[str]):
        super().__init__(backbone, classes)
        options, templates = self.options, given_templates(self.options["templates"])
        if len(templates) > 1:
            raise InputError(f"templates holds {len(templates)} texts; this method takes one text for a class")
        if min(options["n_tokens"], options["dim"]) < 1 or not 0 <= options["alpha"] <= 1:
            given = f"n_tokens is {options['n_tokens']}, dim {options['dim']}, alpha {options['alpha']}"
            raise InputError(f"{given}; at least one token of one number is needed, and alpha is a share from 0 to 1")
        for name in ("weight", "logit_scale"):
            if options[name] < 0:
                raise InputError(f"{name} is {options[name]:g}; it is 0 or positive")
        self.layers = blocks_of_both(backbone, options["layers"], lambda depth: max(0, depth // 2 - 1))
        self.frozen_blocks = self.layers[0]
        self.teacher = Teacher(classes, templates)
        texts = [text for (text,) in self.teacher.texts]
        self.encoder = InsertedTokens(backbone.text, texts, options["n_tokens"], self.frozen_blocks, self.share)
        self.fused = options["fuse"] and min(self.trained_labels) >= 0
        self.terms["distance"] = options["weight"], self.distance
        own = backbone.image.project(torch.eye(backbone.image.width).to(backbone.logit_scale))
        self.register_buffer("projection", own.detach().clone(), persistent=False)

    def by_block(self, tokens: Sequence[Tensor]) -> list[Tensor | None]:
        """Spread the tokens of `layers`, (K, D) each, over all blocks from the first to the last of them.

        There is None where no tokens enter and those of the block before pass on.
        """
        found = dict(zip(self.layers, tokens, strict=True))
        blocks = range(self.layers[0], self.layers[-1] + 1)
        return [found.get(index) for index in blocks]

    def image_features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W), or rows of `entered`, into features (B, 2, E): f_c, then f_r."""
        tower, start, tokens = self.backbone.image, self.frozen_blocks, self.tokens()
        entering = below(tower, images, start)
        left, own = prompted_outputs(tower, entering, self.by_block(tokens.image), start, self.share)
        by_class = tower.pool(left)
        by_tokens = tower.normalize(own).mean(dim=1) @ tokens.projection
        return torch.stack([by_class, by_tokens], dim=1)

    def features_of(self, images: Tensor) -> Tensor:
        """Return f_c (B, E)."""
        return self.image_features(images)[:, 0]

    def text_features(self) -> Tensor:
        first, *others = self.by_block(self.tokens().text)
        assert first is not None
        return self.encoder(self.backbone.text, first, others)

    def both_logits(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """Compare f_c and f_r, (B, 2, E), with the class features (C, E): logits (B, C) each.

        The scale of the cosines is the option's, or the backbone's own.
        """
        scale = self.options["logit_scale"] or self.backbone.logit_scale.exp()
        found = scale * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        return found[:, 0], found[:, 1]

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        by_class, by_tokens = self.both_logits(image_features, text_features)
        alpha = self.options["alpha"]
        return alpha * by_class + (1 - alpha) * by_tokens if self.fused else by_class

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the objective; blocks below the first of `layers` are computed once for f_c and for CLIP's feature."""
        return super().loss(entered(self.backbone.image, images, self.frozen_blocks), labels)

    def objective(self, step: Step, reduction: str = "mean") -> Tensor:
        """Return the cross-entropies of the logits by f_c and by f_r, weighted by `alpha` and its rest.

        The terms keep f_c near CLIP, not f_r, which is free to learn the task.
        """
        alpha, (by_class, by_tokens) = self.options["alpha"], self.both_logits(step.image_features, step.text_features)
        seen = self.cross_entropy(by_class, step.labels, reduction)
        learned = self.cross_entropy(by_tokens, step.labels, reduction)
        return alpha * seen + (1 - alpha) * learned

    def distance(self, step: Step) -> Tensor:
        """Return 1 - the mean cosine of f_c and CLIP's image features, plus that of the class features and CLIP's.

        `step.images` are rows of `entered`, which hold CLIP's.
        """
        untouched, known = parted(self.backbone.image, step.images)[1], self.teacher.text_features(self.backbone)
        images = F.cosine_similarity(step.image_features[:, 0], untouched).mean()
        texts = F.cosine_similarity(step.text_features, known).mean()
        return 2 - images - texts
