"""CoCoOp: conditional prompt learning for vision-language models (Zhou et al., CVPR 2022, arXiv:2203.05557)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.context import context_prompts, initial_context
from coop.parts.objective import Comparing, Step
from coop.parts.per_image import mean_loss, parts
from promptvision.backbones import CLIP


class CoCoOp(Comparing):
    """Context vectors that every image shifts: ctx_m + meta_net(image feature), hence prompts for each image.

    `n_ctx`: number of vectors M. `ctx_init`: words to start from instead of noise; M is then their number of tokens.
    COMPUTE.IMAGES_AT_ONCE images, 1 by default, are encoded together: memory grows with it, not with the batch.
    Learns `ctx` (M, D) and `meta_net`, named as in the official checkpoints.
    """

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

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone.image.as_features(images)
        contexts, at_once = self.contexts(features), self.backbone.compute.images_at_once or 1
        slices = list(parts(len(features), at_once))
        return torch.cat([self.prediction(features[p], self.encoder(self.backbone.text, contexts[p])) for p in slices])

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, a scalar, in the memory of the images that are encoded together."""
        features = self.backbone.image.as_features(images)

        def losses(contexts: Tensor, part: slice) -> Tensor:
            own, texts = features[part], self.encoder(self.backbone.text, contexts)
            return self.objective(Step(images[part], labels[part], own, texts, self.logits(own, texts)), "none")

        contexts = self.contexts(features)
        added = [p for name, p in self.trained().items() if name != "ctx" and not name.startswith("meta_net.")]
        return mean_loss(contexts, losses, self.backbone.compute.images_at_once or 1, added)
