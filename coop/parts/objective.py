"""CLIP methods made of image features, class features and an objective of weighted terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coop.parts.teacher import Teacher
from promptvision.backbones import CLIP
from promptvision.backbones.classes.shares import shared
from promptvision.errors import InputError
from promptvision.method import Method


@dataclass(frozen=True)
class Step:
    """Tensors of a training step that the terms of the objective read. Features are not normalised."""

    images: Tensor
    """(B, 3, H, W), or features (B, E) where the method takes them in place of images."""
    labels: Tensor
    """(B,)."""
    image_features: Tensor
    """(B, E)."""
    text_features: Tensor
    """(C, E), or (B, C, E) where every image has its own."""
    logits: Tensor
    """(B, C)."""
    made: dict[str, Tensor] = field(default_factory=dict)
    """Results that terms share."""

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Return `make()`, computed by the first term that asks for `name`."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


Term = Callable[[Step], Tensor]
"""One term of the objective, a scalar."""


class Comparing(Method):
    """Methods that compare image features with class features: how labels are learned and predicted from these."""

    backbone: CLIP

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Compare (B, E) with (C, E), or with (B, C, E), into logits (B, C)."""
        return self.backbone.logits(image_features, text_features)

    def prediction(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return the logits (B, C) that images are classified by."""
        return self.logits(image_features, text_features)

    def objective(self, step: Step, reduction: str = "mean") -> Tensor:
        """Return the mean cross-entropy, or that of each image with `reduction` "none"; other terms come on top."""
        return self.cross_entropy(step.logits, step.labels, reduction)


class FeatureMethod(Comparing):
    """exp(logit_scale) times the cosine of `image_features(images)` and `text_features()`, which subclasses define.

    The loss is `objective`, the cross-entropy, plus `weight * term(step)` for every entry {name: (weight, term)}
    of `terms`, to which methods and users add their regularisers. A term of weight 0 is not computed.
    """

    new_classes = True
    teacher: Any = None
    """A `Teacher` or a method, if terms of the objective need one."""

    def __init__(self, backbone: CLIP, classes: Sequence[str]):
        super().__init__(backbone, classes)
        self.terms: dict[str, tuple[float, Term]] = {}

    def image_features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) into features (B, E), not normalised; features of a frozen tower pass through."""
        return self.backbone.image.as_features(images)

    def features_of(self, images: Tensor) -> Tensor:
        return self.image_features(images)

    def text_features(self) -> Tensor:
        """Return the class features (C, E), not normalised, which depend on no image."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.prediction(self.image_features(images), self.text_features())

    def predictor(self) -> Callable[[Tensor], Tensor]:
        features = self.text_features()
        return lambda images: self.prediction(self.image_features(images), features)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the labels plus the weighted terms, a scalar."""
        image_features, text_features = self.image_features(images), shared(self.text_features)
        logits = self.logits(image_features, text_features)
        return self.total(Step(images, labels, image_features, text_features, logits))

    def total(self, step: Step) -> Tensor:
        """Return the objective plus the weighted terms, a scalar."""
        total = self.objective(step)
        for weight, term in self.terms.values():
            total = total + weight * term(step) if weight else total
        return total

    def to_half(self, training: bool) -> Sequence[Method]:
        if training and isinstance(self.teacher, Teacher):
            self.teacher.text_features(self.backbone)
        return super().to_half(training)

    def for_classes(self, names: Sequence[str]) -> Method:
        if self.options.get("csc"):
            raise InputError(
                "class-specific contexts (csc) fit only the classes they were trained on; train without csc"
            )
        return super().for_classes(names)
