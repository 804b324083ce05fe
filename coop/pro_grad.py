"""ProGrad: prompt-aligned gradient (Zhu et al., ICCV 2023, arXiv:2205.14865)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coop.parts.context import PLACEHOLDER, class_text, initial_context
from coop.parts.context_method import ContextMethod
from coop.parts.per_image import SCALES, scales
from coop.parts.teacher import Teacher
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError, counted


def aligned(wanted: Tensor, general: Tensor, strength: float) -> Tensor:
    """Remove `strength` times the part of gradient `wanted` that opposes gradient `general`; same shapes.

    Where the two do not conflict (their product is not negative), `wanted` stays as it is.
    """
    product = (wanted * general).sum()
    share = product.clamp(max=0) / general.square().sum().clamp(min=torch.finfo(general.dtype).tiny)
    return wanted - strength * share * general


def gradient(loss: Tensor, tensor: Tensor) -> Tensor:
    """Return the gradient of a scalar, which in 16 bits neither vanishes nor overflows inside the text tower."""
    for scale in scales(tensor):
        (found,) = torch.autograd.grad(loss * scale, tensor, retain_graph=True)
        if scale == SCALES[-1] or found.isfinite().all():
            break
    return found / scale


class ProGrad(ContextMethod):
    """CoOp with steps that never oppose zero-shot CLIP: the gradient of the cross-entropy is projected.

    G_d is the gradient of the cross-entropy, G_g that of KL(zero-shot || prompts); where they conflict, lambda times
    the part of G_d along G_g is removed. `strength`: the paper's lambda. `temperature`: temperature of both predictions
    in the KL divergence. `templates`: the zero-shot texts, with `{}` for the class name. `n_ctx`: number of vectors M.
    `ctx_init`: words that the last vectors start from (the others start from zeros); empty for noise. As in the
    official code only as many tokens as `ctx_init` has words between spaces are learned: one more for a comma leaves
    the last token as it is, between contexts and class name. Learns `ctx` (M, D).
    """

    loss_is_mean = False

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 16, ctx_init: str = "",
        strength: float = 1.0, temperature: float = 1.0, templates: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(backbone, classes)
        if temperature <= 0:
            raise InputError(f"temperature is {temperature:g}; it must be positive")
        self.strength, self.temperature = strength, temperature
        self.templates = given_templates(templates)
        self.teacher = Teacher(classes, self.templates)

    def start(self) -> tuple[Tensor, str]:
        text, n_ctx, words = self.backbone.text, self.options["n_ctx"], class_text(self.options["ctx_init"])
        count = len(words.split())
        if not words:
            return super().start()
        if count > n_ctx:
            raise InputError(f"n_ctx is {n_ctx}, but ctx_init {words!r} has {counted(count, 'word')}")
        tokens = initial_context(text, 0, words)[:count]
        zeros = tokens.new_zeros(n_ctx - len(tokens), text.width)
        return torch.cat([zeros, tokens]), f"{' '.join([PLACEHOLDER] * len(zeros) + [words])} {{}}."

    def divergence(self, features: Tensor, logits: Tensor) -> Tensor:
        """Return KL(zero-shot || prompts), the mean over images of features (B, E) and logits (B, C)."""
        expected = F.log_softmax(self.teacher.logits(self.backbone, features) / self.temperature, dim=-1)
        found = F.log_softmax(logits / self.temperature, dim=-1)
        return self.temperature**2 * F.kl_div(found, expected, reduction="batchmean", log_target=True)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, a scalar with the projected gradient.

        The two gradients are computed here and enter that of the training loop through a term of value 0, so that loss
        scaling, clipping and resuming work as for any other method.
        """
        features = self.image_features(images)
        logits = self.logits(features, self.text_features())
        value = self.cross_entropy(logits, labels)
        if not torch.is_grad_enabled():
            return value
        general = gradient(self.divergence(features, logits), self.ctx)
        chosen = aligned(gradient(value, self.ctx), general, self.strength)
        return value.detach() + (chosen * (self.ctx - self.ctx.detach())).sum()
