"""IVLP: independent vision and language prompts, a baseline of MaPLe's paper (CVPR 2023, arXiv:2210.03117)."""

from __future__ import annotations

from collections.abc import Sequence

from coop.parts.deep_prompts import IndependentPrompts
from promptvision.backbones import CLIP


class IVLP(IndependentPrompts):
    """Prompts in the text tower and prompts in the image tower, learned independently.

    `n_ctx_text`, `n_ctx_vision`: vectors per block. `depth_text`, `depth_vision`: blocks with prompts of their own; 1
    is shallow, `depth_vision` 0 gives deep language prompts alone (the idea of P-tuning v2, arXiv:2110.07602, in CLIP's
    text tower). `ctx_init`: words that the contexts start from (`leading_words`).
    Learns `prompt_learner.ctx`, `image_encoder.VPT` and `{text,image}_encoder.transformer.resblocks.{i}.VPT_shallow`,
    each (M, D).
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx_text: int = 2, n_ctx_vision: int = 2,
        depth_text: int = 2, depth_vision: int = 2, ctx_init: str = "a photo of a",
    ):  # fmt: skip
        super().__init__(backbone, classes)
