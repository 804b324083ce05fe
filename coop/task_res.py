"""TaskRes: a residual on CLIP's class features, tuned for the task (Yu et al., CVPR 2023, arXiv:2211.10277)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from coop.parts.objective import FeatureMethod
from coop.parts.teacher import filled, mean_features
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP


class TaskRes(FeatureMethod):
    """Class features t + alpha x with a frozen t and a learned x that starts at 0.

    As in geekyutao/TaskRes, t is the mean of the text features as CLIP's tower returns them, with underscores kept in
    class names. It is not normalised: how far a step of x turns the classifier depends on the length of t.
    `templates`: texts with `{}` for the class name. `alpha`: scale of the residual. Learns `text_feature_residuals`,
    x, (C, E), one row for each class, so it cannot name new ones, only fewer, as on ImageNet-A and -R.
    """

    frozen_images = True
    stackable = True
    new_classes = False
    fewer_classes = True
    base: Tensor

    def __init__(self, backbone: CLIP, classes: Sequence[str], *, templates: Sequence[str] = (), alpha: float = 0.5):
        super().__init__(backbone, classes)
        self.templates, self.alpha = given_templates(templates), alpha
        texts = filled(self.templates, classes, as_given=True)
        self.register_buffer("base", mean_features(backbone, texts), persistent=False)
        self.text_feature_residuals = nn.Parameter(self.base.new_zeros(len(self.trained_classes), self.base.shape[1]))

    def text_features(self) -> Tensor:
        rows = self.text_feature_residuals
        return self.base + self.alpha * (rows if self.classes == self.trained_classes else rows[self.trained_labels])
