"""CoCoOp: conditional prompt learning for vision-language models (Zhou et al., CVPR 2022, arXiv:2203.05557)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.context import check_width, class_text, context_prompts, initial_context
from coop.parts.per_image import mean_loss, parts
from promptvision.backbones import CLIP
from promptvision.method import Method


def meta_net(feature_dim: int, width: int) -> nn.Sequential:
    """Image features (B, feature_dim) to shifts (B, width), by way of feature_dim / 16 hidden units (section 3.2)."""
    hidden = max(1, feature_dim // 16)
    layers = dict(linear1=nn.Linear(feature_dim, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, width))
    return nn.Sequential(OrderedDict(layers))


class CoCoOp(Method):
    """Context vectors that every image shifts: ctx_m + meta_net(image feature), hence prompts for each image.

    `n_ctx`: number of vectors M. `ctx_init`: words to start from instead of noise. The prompts of
    COMPUTE.IMAGES_AT_ONCE images, 1 by default, are encoded together; memory grows with it and not with the batch.
    Learns `ctx` (M, D) and `meta_net`, named as in the official checkpoints.
    """

    backbone: CLIP
    frozen_images = True

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int = 4,
        ctx_init: str = "",
    ):
        super().__init__(backbone, classes)
        self.options = dict(n_ctx=n_ctx, ctx_init=ctx_init)
        ctx = initial_context(backbone.text, n_ctx, ctx_init)
        prefix = class_text(ctx_init)
        self.encoder = context_prompts(backbone.text, classes, len(ctx), prefix=prefix)
        self.ctx = nn.Parameter(ctx)
        self.meta_net = meta_net(backbone.image.feature_dim, backbone.text.width)

    def contexts(self, features: Tensor) -> Tensor:
        """Image features (B, E), as the tower gives them, to the contexts (B, M, D) of each image."""
        shift = self.meta_net(F.normalize(features, dim=-1).to(self.ctx.dtype))
        return self.ctx + shift[:, None]

    @property
    def images_at_once(self) -> int:
        """Images whose prompts are encoded together."""
        return self.backbone.compute.images_at_once or 1

    def _logits(self, features: Tensor, contexts: Tensor) -> Tensor:
        return self.backbone.logits(features, self.encoder(self.backbone.text, contexts))

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone.image.as_features(images)
        contexts = self.contexts(features)
        found = [self._logits(features[p], contexts[p]) for p in parts(len(features), self.images_at_once)]
        return torch.cat(found)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar, in the memory of `images_at_once` images."""
        features = self.backbone.image.as_features(images)

        def losses(contexts: Tensor, part: slice) -> Tensor:
            return F.cross_entropy(self._logits(features[part], contexts), labels[part], reduction="none")

        return mean_loss(self.contexts(features), losses, self.images_at_once)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        check_width(state, self.backbone.text)
        super().load_learned_state(state)

    def for_classes(self, names: Sequence[str]) -> Method:
        """The same contexts and meta-net with other class names."""
        other = CoCoOp(self.backbone, names, **self.options)  # type: ignore[arg-type]
        other.load_learned_state(self.learned_state())
        return other.to(self.ctx.device)
