"""PLOT: prompt learning with optimal transport (Chen et al., ICLR 2023, arXiv:2210.01253)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.context import context_prompts, initial_context, noise
from coop.parts.local_features import check_local, pooled_and_local
from coop.parts.objective import FeatureMethod
from promptvision.backbones import CLIP
from promptvision.errors import InputError, unknown

AT_MOST, ENOUGH = 100, 0.01
"""Sinkhorn's iterations, and the mean change of the row factors below which it stops (section 4.1)."""
STOPS = ("each", "batch")


@torch.no_grad()
def transport_plans(cost: Tensor, entropy: float, stop: str = "each") -> Tensor:
    """Find the plans (..., n, N) that move equal masses from n places to N prompts at `cost` (..., n, N), by Sinkhorn.

    Minimises <T, cost> - entropy h(T). Columns sum to 1 / N exactly, rows to 1 / n as far as it has converged. With
    `stop` "each" every problem stops by itself, so that an image's plan does not depend on its batch; with "batch" all
    stop together, when the row factors of all of them change little on average (CHENGY12/PLOT).
    """
    places, prompts = cost.shape[-2:]
    kernel = torch.exp(-cost / entropy)
    rows, columns = cost.new_ones(cost.shape[:-1]), cost.new_ones(*cost.shape[:-2], prompts)
    moving = torch.ones_like(cost[..., :1, 0], dtype=torch.bool)
    for _ in range(AT_MOST):
        new_rows = 1 / places / (kernel @ columns[..., None])[..., 0]
        new_columns = 1 / prompts / (kernel.mT @ new_rows[..., None])[..., 0]
        change = (new_rows - rows).abs().mean(dim=-1, keepdim=True)
        rows, columns = torch.where(moving, new_rows, rows), torch.where(moving, new_columns, columns)
        moving = moving & ((change if stop == "each" else change.mean()) >= ENOUGH)
        if cost.is_cpu and not moving.any():  # elsewhere the host would wait for the answer in every iteration
            break
    return rows[..., None] * kernel * columns[..., None, :]


class Plot(FeatureMethod):
    """Several prompts per class, matched to the places of an image by optimal transport.

    The distance of an image to a class is <T, 1 - cosines> with the plan T of least cost between its places and the
    class's prompts; the logit is exp(logit_scale) (1 - distance). The gradient takes T as constant.
    `n_prompts`: prompts per class N. `n_ctx`: vectors M of each, shared by the classes; `ctx_init`: words that every
    prompt starts from, with noise of the usual size on top, because equal prompts would stay equal. `entropy`: weight
    of the plan's entropy, the paper's lambda. `stop`: "each" plan is iterated until it changes little; with "batch"
    those of all images and classes of a batch until they do on average, as in the official code, which makes an image's
    logits depend on its batch. `pooled`: add the logits of the image's pooled feature and the mean of a class's
    prompts, as the official code does on ImageNet. Learns `ctx` (N, M, D). The paper's towers are ResNets; a ViT gives
    the features of its tokens.
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_prompts: int = 4, n_ctx: int = 16, ctx_init: str = "", entropy: float = 0.1,
        stop: str = "each", pooled: bool = False,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        check_local(backbone.image)
        if n_prompts < 1 or entropy <= 0:
            raise InputError(f"n_prompts is {n_prompts} and entropy {entropy:g}; both must be positive")
        if stop not in STOPS:
            raise unknown("stop", stop, STOPS)
        self.entropy, self.stop, self.pooled = entropy, stop, pooled
        self.loss_is_mean = stop == "each"
        first = initial_context(backbone.text, n_ctx, ctx_init)
        self.encoder = context_prompts(backbone.text, classes, len(first), prefix=ctx_init)
        self.ctx = nn.Parameter(noise(n_prompts, *first.shape) + (first if ctx_init else 0))

    def text_features(self) -> Tensor:
        """Encode the prompts into class features (N, C, E), not normalised."""
        return self.encoder(self.backbone.text, self.ctx)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) into (B, 1 + n, E), the pooled feature and one for each place, not normalised."""
        return pooled_and_local(self.backbone.image, images)

    def features_of(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, E)."""
        return self.image_features(images)[:, 0]

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Match (B, 1 + n, E) with (N, C, E) into logits (B, C)."""
        places, prompts = F.normalize(image_features[:, 1:], dim=-1), F.normalize(text_features, dim=-1)
        cosines = torch.einsum("bme,nce->bcmn", places, prompts).float()
        plans = transport_plans(1 - cosines, self.entropy, self.stop)
        matched = self.backbone.logit_scale.exp() * (plans * cosines).sum(dim=(-2, -1))
        if not self.pooled:
            return matched
        return matched + self.backbone.logits(image_features[:, 0], text_features.mean(dim=0))
