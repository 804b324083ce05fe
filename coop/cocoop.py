"""CoCoOp: conditional prompt learning for vision-language models (Zhou et al., CVPR 2022, arXiv:2203.05557)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.context import context_prompts, initial_context
from coop.parts.per_image import mean_loss, parts
from promptvision.backbones import CLIP
from promptvision.method import Method


class CoCoOp(Method):
    """Context vectors that every image shifts: ctx_m + meta_net(image feature), hence prompts for each image.

    `n_ctx`: number of vectors M. `ctx_init`: words to start from instead of noise; M is then their number of tokens.
    COMPUTE.IMAGES_AT_ONCE images, 1 by default, are encoded together: memory grows with it, not with the batch.
    Learns `ctx` (M, D) and `meta_net`, named as in the official checkpoints.
    """

    backbone: CLIP
    frozen_images = True
    new_classes = True

    def __init__(self, backbone: CLIP, classes: Sequence[str], *, n_ctx: int = 4, ctx_init: str = ""):
        super().__init__(backbone, classes)
        ctx = initial_context(backbone.text, n_ctx, ctx_init)
        self.encoder = context_prompts(backbone.text, classes, len(ctx), prefix=ctx_init)
        self.ctx = nn.Parameter(ctx)
        feature_dim, hidden = backbone.image.feature_dim, max(1, backbone.image.feature_dim // 16)  # section 3.2
        layers = dict(linear1=nn.Linear(feature_dim, hidden), relu=nn.ReLU())
        self.meta_net = nn.Sequential(OrderedDict(layers, linear2=nn.Linear(hidden, backbone.text.width)))

    def contexts(self, features: Tensor) -> Tensor:
        """Shift the contexts by image features (B, E), not normalised, into those of each image, (B, M, D)."""
        shift = self.meta_net(F.normalize(features, dim=-1).to(self.ctx.dtype))
        return self.ctx + shift[:, None]

    def logits(self, features: Tensor, contexts: Tensor) -> Tensor:
        """Compare image features (B, E) with the prompts of their own contexts (B, M, D) into logits (B, C)."""
        return self.backbone.logits(features, self.encoder(self.backbone.text, contexts))

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone.image.as_features(images)
        contexts, at_once = self.contexts(features), self.backbone.compute.images_at_once or 1
        return torch.cat([self.logits(features[p], contexts[p]) for p in parts(len(features), at_once)])

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, a scalar, in the memory of the images that are encoded together."""
        features = self.backbone.image.as_features(images)

        def losses(contexts: Tensor, part: slice) -> Tensor:
            return self.cross_entropy(self.logits(features[part], contexts), labels[part], reduction="none")

        return mean_loss(self.contexts(features), losses, self.backbone.compute.images_at_once or 1)
