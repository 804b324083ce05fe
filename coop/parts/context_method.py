"""Prompts "[ctx] class." whose contexts all classes share, the starting point of CoOp's descendants."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from coop.parts.context import context_prompts, initial_context
from coop.parts.objective import FeatureMethod
from promptvision.backbones import CLIP


class ContextMethod(FeatureMethod):
    """Contexts before the class name, encoded by `encoder`; subclasses add how they are learned.

    Subclasses have the options `n_ctx`, the number of vectors M, and `ctx_init`, words to start from instead of noise;
    M is then their number of tokens. Learns `ctx` (M, D).
    """

    frozen_images = True

    def __init__(self, backbone: CLIP, classes: Sequence[str]):
        super().__init__(backbone, classes)
        ctx_init = self.options["ctx_init"]
        ctx = initial_context(backbone.text, self.options["n_ctx"], ctx_init)
        self.encoder = context_prompts(backbone.text, classes, len(ctx), prefix=ctx_init)
        self.ctx = nn.Parameter(ctx)

    def text_features(self) -> Tensor:
        """Encode the prompts into class features (C, E), not normalised."""
        return self.encoder(self.backbone.text, self.ctx)
