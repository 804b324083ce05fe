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
    class_specific = False
    """True if the encoder is given contexts of each class."""

    def __init__(self, backbone: CLIP, classes: Sequence[str]):
        super().__init__(backbone, classes)
        ctx, prompt = self.start()
        words, _, ending = prompt.rpartition("{}")
        text, specific = backbone.text, self.class_specific
        self.encoder = context_prompts(
            text, classes, len(ctx), prefix=words.strip(), ending=ending, class_specific=specific
        )
        self.ctx = nn.Parameter(ctx)

    def start(self) -> tuple[Tensor, str]:
        """Return the initial contexts (M, D) and the prompt, with `{}` for the class name, of whose words they replace
        the first M tokens; no words stand for M placeholders."""
        words = self.options["ctx_init"]
        return initial_context(self.backbone.text, self.options["n_ctx"], words), f"{words} {{}}."

    def text_features(self) -> Tensor:
        """Encode the prompts into class features (C, E), not normalised."""
        return self.encoder(self.backbone.text, self.ctx)
