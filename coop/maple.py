"""MaPLe: multi-modal prompt learning (Khattak et al., CVPR 2023, arXiv:2210.03117)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from coop.parts.context import context_prompts, noise
from coop.parts.deep_prompts import check_image_depth, check_text_depth, leading_words
from coop.parts.objective import FeatureMethod
from promptvision.backbones import CLIP
from promptvision.backbones.fast_image import prompted_features


class CoupledPrompts(nn.Module):
    """Language prompts of several blocks, and a linear map for each that turns it into visual prompts (section 3.2.3).

    `ctx` (M, D) and `proj` belong to the input, `compound_prompts_text.{i}` (M, D) and
    `compound_prompt_projections.{i}` to block i + 1. The towers can have any width; the official code has 512 and 768.
    """

    def __init__(self, ctx: Tensor, width: int, depth: int):
        super().__init__()
        self.ctx, deep = nn.Parameter(ctx), range(depth - 1)
        self.proj = nn.Linear(ctx.shape[1], width)
        self.compound_prompts_text = nn.ParameterList([nn.Parameter(noise(*ctx.shape)) for _ in deep])
        self.compound_prompt_projections = nn.ModuleList([nn.Linear(ctx.shape[1], width) for _ in deep])

    def visual(self) -> list[Tensor]:
        """Return the visual prompts of each prompted block, (M, width)."""
        pairs = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        return [self.proj(self.ctx), *(projection(prompts) for projection, prompts in pairs)]


class MaPLe(FeatureMethod):
    """Deep prompts in the text tower, and the same ones, linearly projected, in the image tower.

    `n_ctx`: vectors per block. `depth`: blocks of each tower that have prompts of their own; 1 is shallow. `ctx_init`:
    words that the contexts start from (`leading_words`). Learns the tensors of `CoupledPrompts`, `prompt_learner.*`.
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *, n_ctx: int = 2, depth: int = 2, ctx_init: str = "a photo of a"
    ):
        super().__init__(backbone, classes)
        check_image_depth(backbone.image, depth, "depth")
        check_text_depth(backbone.text, depth, "depth")
        ctx, words = leading_words(backbone.text, n_ctx, ctx_init)
        self.encoder = context_prompts(backbone.text, classes, n_ctx, prefix=words)
        self.prompt_learner = CoupledPrompts(ctx, backbone.image.width, depth)

    def image_features(self, images: Tensor) -> Tensor:
        first, *others = self.prompt_learner.visual()
        return prompted_features(self.backbone.image, images, first, others)

    def text_features(self) -> Tensor:
        learner = self.prompt_learner
        return self.encoder(self.backbone.text, learner.ctx, list(learner.compound_prompts_text))
