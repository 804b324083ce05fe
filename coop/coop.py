"""CoOp: learning to prompt for vision-language models (Zhou et al., IJCV 2022, arXiv:2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coop.parts.context import check_width, class_text, context_prompts, initial_context, noise, refuse_csc
from coop.parts.objective import FeatureMethod
from coop.parts.reparameterize import Network
from promptvision.backbones import CLIP
from promptvision.errors import InputError
from promptvision.method import Method


class CoOp(FeatureMethod):
    """Context vectors in CLIP's text prompt, learned by gradient descent through the frozen text tower.

    `n_ctx`: number of vectors M. `csc`: class-specific contexts, one set per class. `class_token_position`: end,
    middle or front. `ctx_init`: words to start from instead of noise; their number of tokens then is M.
    `reparameterize`: "mlp" or "lstm" makes the contexts by a network that is learned with its inputs (P-tuning).
    Learns `ctx`, (M, D), or (C, M, D) with `csc`; of a network these are the inputs, and it is learned too.
    """

    frozen_images = True

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int = 16,
        csc: bool = False,
        class_token_position: str = "end",
        ctx_init: str = "",
        reparameterize: str = "",
    ):
        super().__init__(backbone, classes)
        if reparameterize and ctx_init:
            raise InputError("a network (reparameterize) makes contexts of its own: it cannot start from ctx_init")
        self.options = dict(n_ctx=n_ctx, csc=csc, class_token_position=class_token_position, ctx_init=ctx_init)
        self.options |= dict(reparameterize=reparameterize)
        ctx = initial_context(backbone.text, n_ctx, ctx_init)
        if csc:
            ctx = ctx.repeat(len(classes), 1, 1) if ctx_init else noise(len(classes), *ctx.shape)
        self.encoder = context_prompts(
            backbone.text,
            classes,
            ctx.shape[-2],
            position=class_token_position,
            prefix=class_text(ctx_init),
            class_specific=csc,
        )
        self.ctx = nn.Parameter(torch.randn_like(ctx) if reparameterize else ctx)
        self.network = Network(reparameterize, ctx.shape[-1]) if reparameterize else nn.Identity()

    def contexts(self) -> Tensor:
        """The context vectors in the prompts, (M, D) or (C, M, D): `ctx`, or what the network makes of it."""
        return self.network(self.ctx)

    def text_features(self) -> Tensor:
        """(C, E), not normalised: the text tower's features of the prompts."""
        return self.encoder(self.backbone.text, self.contexts())

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        check_width(state, self.backbone.text)
        super().load_learned_state(state)

    def for_classes(self, names: Sequence[str]) -> Method:
        """The same contexts with other class names."""
        refuse_csc(self.options)
        return super().for_classes(names)
