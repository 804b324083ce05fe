"""CLAP: class-adaptive linear probing, held near the texts (Silva-Rodriguez et al., CVPR 2024, arXiv:2312.12730)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coop.parts.objective import FeatureMethod, Step
from coop.parts.teacher import ENSEMBLES, all_features, check_every_class, filled, mean_features
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError, unknown
from promptvision.method import Batches

CONSTRAINTS = ("l2", "none")


class CLAP(FeatureMethod):
    """Learned prototypes P (C, E) of the classes, which start as text features t and are pulled towards them.

    The loss is the cross-entropy plus the mean over classes of lambda_c |P_c - t_c|^2. lambda_c is the mean zero-shot
    probability of class c in its training images. t is the mean of the features of its texts as CLIP's tower returns
    them, so that the rate acts on vectors of their length.
    `templates`, `ensemble` as in ZeroShot. `constraint`: "l2", the pull towards t, or "none". `views`: augmented views
    of the images that lambda is computed on; 0 for the images without augmentation.
    Learns `prototypes`, one for each class of training, so it cannot name new classes, only fewer.
    """

    frozen_images = True
    stackable = True
    new_classes = False
    fewer_classes = True
    base: Tensor
    multipliers: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        templates: Sequence[str] = (), ensemble: str = "", constraint: str = "l2", views: int = 0,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        for option, value, known in (("ensemble", ensemble, ENSEMBLES), ("constraint", constraint, CONSTRAINTS)):
            if value not in known:
                raise unknown(option, value, [name for name in known if name])
        if views < 0:
            raise InputError(f"views is {views}; it takes a positive number, or 0")
        self.templates = ENSEMBLES[ensemble] + (given_templates(templates) if templates or not ensemble else [])
        self.prepare_views = views
        self.register_buffer("base", mean_features(backbone, filled(self.templates, self.trained_classes)), False)
        self.register_buffer("multipliers", torch.zeros(len(self.trained_classes)), persistent=False)
        self.prototypes = nn.Parameter(self.base.float().clone())
        self.terms = {"constraint": (float(constraint == "l2"), self.constraint)}

    @torch.no_grad()
    def prepare(self, train: Batches, val: Batches) -> None:
        """Compute how strongly each prototype is held."""
        features, labels = all_features(self.backbone, train)
        check_every_class(self.classes, labels, "CLAP")
        with torch.autocast(features.device.type, enabled=False):
            shares = self.backbone.logits(features, self.base).softmax(dim=1)
        held = [shares[labels == label, label].mean() for label in range(len(self.classes))]
        self.multipliers = torch.stack(held).float()

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return the logits (B, C), in float32 whatever precision the towers have, as in the official code."""
        with torch.autocast(image_features.device.type, enabled=False):
            return super().logits(image_features.to(text_features.dtype), text_features)

    def constraint(self, step: Step) -> Tensor:
        """Return the mean of the weighted squared distances of the prototypes from the text features."""
        return (self.multipliers * (self.prototypes - self.base).square().sum(dim=1)).mean()

    def text_features(self) -> Tensor:
        return self.prototypes if self.classes == self.trained_classes else self.prototypes[self.trained_labels]
