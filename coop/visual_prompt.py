"""Visual prompts in CLIP's image tower, with its text features as the classifier.

Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv:2203.12119) of a CLIP, as the comparison in MaPLe (Khattak et al.,
CVPR 2023, arXiv:2210.03117, table 1) has it: trainer VPT of muzairkhattak/multimodal-prompt-learning.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from coop.parts.deep_prompts import VisualPrompts
from coop.parts.objective import FeatureMethod
from coop.parts.teacher import class_features, filled
from promptvision.backbones import CLIP


class VisualPrompt(FeatureMethod):
    """Prompt tokens in CLIP's frozen image tower; the classifier is the text features of `template`, computed once.

    `n_ctx`: number of prompts M. `depth`: the first so many blocks have prompts of their own; 1 is shallow.
    `template`: a text with `{}` for the class name. Learns `image_encoder.VPT` (M, D) and
    `image_encoder.transformer.resblocks.{i}.VPT_shallow` (M, D). The official code puts prompts after the patches, here
    they come before them: without positions it is the same.
    """

    features: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        n_ctx: int = 8, depth: int = 1, template: str = "a photo of a {}.",
    ):  # fmt: skip
        super().__init__(backbone, classes)
        self.templates = [template]
        self.image_encoder = VisualPrompts(backbone.image, n_ctx, depth)
        self.register_buffer("features", class_features(backbone, filled([template], classes)), persistent=False)

    def image_features(self, images: Tensor) -> Tensor:
        return self.image_encoder.features(self.backbone.image, images)

    def text_features(self) -> Tensor:
        return self.features
