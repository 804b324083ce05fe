"""Visual prompts in CLIP's image tower, with its text features as the classifier.

Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv:2203.12119) of a CLIP, as the comparison in MaPLe (Khattak et al.,
CVPR 2023, arXiv:2210.03117, table 1) has it: trainer VPT of muzairkhattak/multimodal-prompt-learning.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from coop.parts.deep_prompts import VisualPrompts
from coop.parts.teacher import class_features, filled
from promptvision.backbones import CLIP
from promptvision.backbones.fast_image import prompted_features
from promptvision.method import Method


class VisualPrompt(Method):
    """Prompt tokens in CLIP's frozen image tower; the classifier is the text features of `template`, made once.

    `n_ctx`: number of prompts M. `depth`: the first so many blocks have prompts of their own; 1 is shallow.
    `template`: a text with `{}` for the class name. Learns
    `image_encoder.VPT` (M, D) and `image_encoder.transformer.resblocks.{i}.VPT_shallow` (M, D). The
    official code puts prompts behind the patches, here they stand before them: without positions it is the same.
    """

    backbone: CLIP
    features: Tensor

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int = 8,
        depth: int = 1,
        template: str = "a photo of a {}.",
    ):
        super().__init__(backbone, classes)
        self.options = dict(n_ctx=n_ctx, depth=depth, template=template)
        self.templates = [template]
        self.image_encoder = VisualPrompts(backbone.image, n_ctx, depth)
        self.register_buffer("features", class_features(backbone, filled([template], classes)), persistent=False)

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E), not normalised."""
        first, *others = self.image_encoder.layers()
        return prompted_features(self.backbone.image, images, first, others)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.logits(self.image_features(images), self.features)

    def for_classes(self, names: Sequence[str]) -> Method:
        """The same visual prompts with the texts of other classes."""
        other = VisualPrompt(self.backbone, names, **self.options)  # type: ignore[arg-type]
        other.load_learned_state(self.learned_state())
        return other.to(self.features.device)
