"""Prompts "[ctx] class." with contexts that all classes share: what CoOp's descendants start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from coop.parts.context import check_width, class_text, context_prompts, initial_context
from coop.parts.objective import FeatureMethod
from promptvision.backbones import CLIP


class ContextMethod(FeatureMethod):
    """Contexts before the class name, encoded by `encoder`; how they are learned is up to the subclass.

    `n_ctx`: number of vectors M. `ctx_init`: words to start from instead of noise; their number of tokens then is M.
    `options`: the other keyword arguments of the subclass. Learns `ctx` (M, D).
    """

    frozen_images = True

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int,
        ctx_init: str,
        **options: Any,
    ):
        super().__init__(backbone, classes)
        self.options = dict(n_ctx=n_ctx, ctx_init=ctx_init, **options)
        ctx = initial_context(backbone.text, n_ctx, ctx_init)
        prefix = class_text(ctx_init)
        self.encoder = context_prompts(backbone.text, classes, len(ctx), prefix=prefix)
        self.ctx = nn.Parameter(ctx)

    def text_features(self) -> Tensor:
        """(C, E), not normalised: the text tower's features of the prompts."""
        return self.encoder(self.backbone.text, self.ctx)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        check_width(state, self.backbone.text)
        super().load_learned_state(state)
