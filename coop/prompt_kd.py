"""PromptKD: unsupervised prompt distillation (Li et al., CVPR 2024, arXiv:2403.02781)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.deep_prompts import VisualPrompts
from coop.parts.large_teacher import check_same_images, class_vectors, load_teacher
from coop.parts.objective import FeatureMethod, Step
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError
from promptvision.method import Method


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return tau^2 KL(softmax(teacher / tau) || softmax(student / tau)) of logits (B, C), the mean over images."""
    expected, found = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(found, expected, reduction="batchmean", log_target=True)


class Projector(nn.Module):
    """Map features (B, E) to (B, E') through E' units with batch norm and ReLU; layers and names of the official code.

    Its convolutions see one pixel: they are linear layers.
    """

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(dim, out, 1), nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.conv1(features[..., None, None]).flatten(1)


class PromptKD(FeatureMethod):
    """Visual prompts and a projector learn to predict as a larger teacher does, from images without labels.

    Both compare images with the teacher's class features, which are computed once; `VPT_image_trans` maps the student's
    (B, E) into their space. The objective needs no labels: the training images serve as unlabelled ones (all of them
    with DATASET.SHOTS 0).

    `teacher`: the folder of a run, or a CLIP by its BACKBONE.NAME; empty for the student's own CLIP without prompts. A
    run that was trained on other classes must be able to name these. `teacher_weights`: weights of a CLIP as teacher,
    like BACKBONE.PRETRAINED. `templates`: texts of a CLIP as teacher, with `{}` for the class name. `weight`: factor of
    the objective, `divergence`. `per_class`: also divide it by the number of classes, as the official code with its
    weight of 1000 does. `temperature`: temperature of both predictions in the divergence. `n_ctx`, `depth` as in `vpt`.
    Learns `image_encoder` as vpt does, and `VPT_image_trans`.
    """

    loss_on_labels = False
    vectors: Tensor
    teacher: Method

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], known: Method | None = None, *,
        teacher: str = "", teacher_weights: str = "default", n_ctx: int = 4, depth: int = 3,
        temperature: float = 1.0, weight: float = 1.0, per_class: bool = False, templates: Sequence[str] = (),
    ):  # fmt: skip
        """`known`: a teacher that is loaded already."""
        super().__init__(backbone, classes)
        if temperature <= 0:
            raise InputError(f"temperature is {temperature:g}; it must be positive")
        self.templates, self.temperature = given_templates(templates), temperature
        self.image_encoder = VisualPrompts(backbone.image, n_ctx, depth)
        known = known or load_teacher(backbone, teacher, teacher_weights, classes, self.templates)
        check_same_images(backbone, known.backbone)  # type: ignore[arg-type]
        self.__dict__["teacher"] = known  # not a submodule: nothing of it belongs to the student's state
        self.register_buffer("vectors", class_vectors(known), persistent=False)
        self.VPT_image_trans = Projector(backbone.image.feature_dim, self.vectors.shape[-1])
        self.terms = {"distillation": (weight / len(classes) if per_class else weight, self.distillation)}

    def image_features(self, images: Tensor) -> Tensor:
        return self.VPT_image_trans(self.image_encoder.features(self.backbone.image, images))

    def text_features(self) -> Tensor:
        return self.vectors

    def distillation(self, step: Step) -> Tensor:
        """Return the divergence of the student's logits from the teacher's, a scalar."""
        with torch.no_grad():
            wanted = self.teacher(step.images)
        return divergence(step.logits, wanted, self.temperature)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted terms alone, a scalar; `labels` are ignored."""
        if self.training and len(images) < 2:
            raise InputError("PromptKD's projector normalises over the batch: OPTIM.BATCH_SIZE must be 2 or more")
        features = self.image_features(images)
        step = Step(images, labels, features, self.vectors, self.logits(features, self.vectors))
        return torch.stack([weight * term(step) for weight, term in self.terms.values()]).sum()

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; those of runs before the official names are translated."""
        earlier, ours, found = "projector.", "VPT_image_trans.conv1.", dict[str, Tensor]()
        for name, value in state.items():
            linear = name.startswith(earlier) and value.dim() == 2
            found[name.replace(earlier, ours, 1)] = value[..., None, None] if linear else value
        super().load_learned_state(found)

    def to_half(self, training: bool) -> Sequence[Method]:
        return [*super().to_half(training), *self.teacher.to_half(False)]

    def for_classes(self, names: Sequence[str]) -> Method:
        """Return the same student with the teacher's features of other classes, if the teacher can name them."""
        return self.built_for(names, self.teacher.for_classes(names))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PromptKD:
        """Move and convert the teacher along with the student."""
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)
