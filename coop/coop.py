"""CoOp: learning to prompt for vision-language models (Zhou et al., IJCV 2022, arXiv:2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coop.parts.context import context_prompts, initial_context, noise
from coop.parts.objective import FeatureMethod
from coop.parts.reparameterize import Network
from promptvision.backbones import CLIP
from promptvision.errors import InputError


class CoOp(FeatureMethod):
    """Context vectors in CLIP's text prompt, learned by gradient descent through the frozen text tower.

    `n_ctx`: number of vectors M. `csc`: class-specific contexts, one set per class. `class_token_position`: end,
    middle or front. `ctx_init`: words to start from instead of noise; M is then their number of tokens.
    `reparameterize`: "mlp" or "lstm", a network that turns learned inputs into the contexts (P-tuning).
    Learns `ctx`, (M, D), or (C, M, D) with `csc`; with `reparameterize`, `ctx` is the input of the learned `network`.
    """

    frozen_images = True
    stackable = True

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 16, csc: bool = False, class_token_position: str = "end",
        ctx_init: str = "", reparameterize: str = "",
    ):  # fmt: skip
        super().__init__(backbone, classes)
        if reparameterize and ctx_init:
            raise InputError("contexts that a network makes (reparameterize) cannot start from ctx_init")
        ctx = initial_context(backbone.text, n_ctx, ctx_init)
        if csc:
            ctx = ctx.repeat(len(classes), 1, 1) if ctx_init else noise(len(classes), *ctx.shape)
        self.encoder = context_prompts(
            backbone.text, classes, ctx.shape[-2], position=class_token_position, prefix=ctx_init, class_specific=csc
        )
        self.ctx = nn.Parameter(torch.randn_like(ctx) if reparameterize else ctx)
        self.stackable = reparameterize != "lstm"
        self.network = Network(reparameterize, ctx.shape[-1]) if reparameterize else nn.Identity()

    def contexts(self) -> Tensor:
        """Return the context vectors of the prompts, (M, D) or (C, M, D)."""
        return self.network(self.ctx)

    def text_features(self) -> Tensor:
        """Encode the prompts into class features (C, E), not normalised."""
        return self.encoder(self.backbone.text, self.contexts())
