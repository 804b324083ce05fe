"""IVLP: independent vision and language prompts, a baseline of MaPLe's paper (CVPR 2023, arXiv:2210.03117)."""

from __future__ import annotations

from collections.abc import Sequence

from coop.parts.deep_prompts import IndependentPrompts
from promptvision.backbones import CLIP


class IVLP(IndependentPrompts):
    """Prompts in the text tower and prompts in the image tower, each learned by the task alone.

    The options are those of `IndependentPrompts`; `depth_vision` 0 gives deep language prompts alone (P-tuning v2's
    idea, arXiv:2110.07602, in CLIP's text tower). Learns `prompt_learner.ctx`, `image_encoder.VPT` and
    `{text,image}_encoder.transformer.resblocks.{i}.VPT_shallow`, each (M, D).
    """

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx_text: int = 2,
        n_ctx_vision: int = 2,
        depth_text: int = 2,
        depth_vision: int = 2,
        ctx_init: str = "a photo of a",
    ):
        super().__init__(
            backbone,
            classes,
            n_ctx_text=n_ctx_text,
            n_ctx_vision=n_ctx_vision,
            depth_text=depth_text,
            depth_vision=depth_vision,
            ctx_init=ctx_init,
        )
