"""A CLIP method as features of images and of classes, and an objective of several weighted terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones import CLIP
from promptvision.method import Method


@dataclass(frozen=True)
class Step:
    """What a training step has computed: what a term of the objective may look at. Features are not normalised."""

    images: Tensor
    """(B, 3, H, W), or (B, E) where the method takes features in their place."""
    labels: Tensor
    """(B,)."""
    image_features: Tensor
    """(B, E)."""
    text_features: Tensor
    """(C, E)."""
    logits: Tensor
    """(B, C)."""
    made: dict[str, Tensor] = field(default_factory=dict)
    """What terms have computed."""

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What several terms need, computed by the first of them."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


Term = Callable[[Step], Tensor]
"""One term of the objective, a scalar."""


class FeatureMethod(Method):
    """exp(logit_scale) times the cosine of `image_features(images)` and `text_features()`, which subclasses define.

    The objective is the cross-entropy plus `weight * term(step)` for every entry {name: (weight, term)} of `terms`:
    a method puts its regularisers there, and so may a user. A term of weight 0 is not computed. `options` are the
    keyword arguments that build the method again for other classes.
    """

    backbone: CLIP
    options: dict[str, Any]

    def __init__(self, backbone: CLIP, classes: Sequence[str]):
        super().__init__(backbone, classes)
        self.terms: dict[str, tuple[float, Term]] = {}

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), or features (B, E) where the image tower is untouched, to (B, E), not normalised."""
        return self.backbone.image.as_features(images)

    def text_features(self) -> Tensor:
        """(C, E), not normalised."""
        raise NotImplementedError

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, E) and (C, E) to (B, C)."""
        return self.backbone.logits(image_features, text_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.image_features(images), self.text_features())

    def predictor(self) -> Callable[[Tensor], Tensor]:
        features = self.text_features()
        return lambda images: self.logits(self.image_features(images), features)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy plus the weighted terms, a scalar."""
        image_features, text_features = self.image_features(images), self.text_features()
        logits = self.logits(image_features, text_features)
        step = Step(images, labels, image_features, text_features, logits)
        total = F.cross_entropy(self.for_task(logits), labels)
        for weight, term in self.terms.values():
            total = total + weight * term(step) if weight else total
        return total

    def for_classes(self, names: Sequence[str]) -> Method:
        """The same learned tensors with other class names."""
        other = type(self)(self.backbone, names, **self.options)
        other.load_learned_state(self.learned_state())
        return other.to(self.backbone.logit_scale.device)
