"""PromptSRC: self-regulating prompts (Khattak et al., ICCV 2023, arXiv:2307.06948)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from coop.parts.averaging import EpochAverage, gaussian_weights
from coop.parts.deep_prompts import IndependentPrompts
from coop.parts.objective import Step
from coop.parts.teacher import ENSEMBLES, Teacher
from promptvision.backbones import CLIP
from promptvision.errors import InputError

TEMPLATES = ENSEMBLES["imagenet"][:60]
"""The first 60 of CLIP's 80 templates, those of the official code."""


class PromptSRC(IndependentPrompts):
    """Prompts in both towers that three terms keep close to the CLIP without prompts, averaged over the epochs.

    `text_weight`, `image_weight`: weight of the mean absolute difference between normalised features with prompts and
    without; `logits_weight`: weight of the Kullback-Leibler divergence of the logits, divided by batch times classes.
    `teacher_templates`: texts with `{}` for the class name, 60 of CLIP's if empty, whose features make the teacher's:
    their mean, normalised only then. `gpa_mean`, `gpa_std`: mean and deviation of the Gaussian, in epochs from 1, that
    weighs the prompts at the ends of epochs; training ends with their average. `n_ctx_text`, `n_ctx_vision`,
    `depth_text`, `depth_vision`, `ctx_init` as in IVLP, and so are the learned tensors.
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx_text: int = 4, n_ctx_vision: int = 4, depth_text: int = 2, depth_vision: int = 2,
        ctx_init: str = "a photo of a",
        text_weight: float = 25.0, image_weight: float = 10.0, logits_weight: float = 1.0,
        gpa_mean: float = 15.0, gpa_std: float = 1.0, teacher_templates: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(backbone, classes)
        for name in ("text_weight", "image_weight", "logits_weight"):
            if self.options[name] < 0:
                raise InputError(f"{name} is {self.options[name]}; the weight of a term cannot be negative")
        gaussian_weights(1, gpa_mean, gpa_std)  # raises InputError now rather than after the first epoch
        self.gpa_mean, self.gpa_std, self.average = gpa_mean, gpa_std, EpochAverage()
        self.teacher = Teacher(classes, list(teacher_templates) or TEMPLATES, each_normalized=False)
        self.terms["text"] = text_weight, self.text_term
        self.terms["image"] = image_weight, self.image_term
        self.terms["logits"] = logits_weight, self.logits_term

    def text_term(self, step: Step) -> Tensor:
        """Return the mean absolute difference of the class features."""
        return F.l1_loss(F.normalize(step.text_features, dim=-1), self.teacher.text_features(self.backbone))

    def image_term(self, step: Step) -> Tensor:
        """Return the mean absolute difference of the image features."""
        return F.l1_loss(F.normalize(step.image_features, dim=-1), self._untouched(step))

    def logits_term(self, step: Step) -> Tensor:
        """Return KL(zero-shot || prompted), summed over the batch, divided by batch times classes."""
        zero_shot = self.backbone.logits(self._untouched(step), self.teacher.text_features(self.backbone))
        both = step.logits.log_softmax(dim=-1), zero_shot.log_softmax(dim=-1)
        return F.kl_div(*both, reduction="sum", log_target=True) / step.logits.numel()

    def _untouched(self, step: Step) -> Tensor:
        """Return the normalised image features (B, E) without prompts."""
        return step.once("teacher", lambda: self.teacher.image_features(self.backbone, step.images))

    def end_epoch(self, epoch: int, epochs: int) -> None:
        self.average.end_epoch(self, epoch, gaussian_weights(epochs, self.gpa_mean, self.gpa_std))

    def training_state(self) -> dict[str, Tensor]:
        return self.average.tensors

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        self.average.load(self, state)
