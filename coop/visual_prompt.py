"""Visual prompts in CLIP's image tower, with its text features as the classifier.

Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv:2203.12119) of a CLIP, as the comparison in MaPLe (Khattak et al.,
CVPR 2023, arXiv:2210.03117, table 1) has it: trainer VPT of muzairkhattak/multimodal-prompt-learning.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from coop.context import noise
from coop.teacher import class_features, filled
from promptvision.backbones import CLIP, ImageTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.errors import InputError
from promptvision.method import Method


class VisualPrompts(nn.Module):
    """`n_ctx` vectors for each of the first `depth` blocks of an image tower, N(0, 0.02), by their official names.

    `VPT` (M, D) enters before `ln_pre`, `transformer.resblocks.{i}.VPT_shallow` (M, D) replaces it at block i.
    """

    def __init__(self, tower: ImageTower, n_ctx: int, depth: int):
        super().__init__()
        if not tower.depth:
            raise tower.refusal()
        if n_ctx < 1:
            raise InputError(f"n_ctx is {n_ctx}; there must be at least one visual prompt")
        if not 1 <= depth <= tower.depth:
            raise InputError(f"depth is {depth}; backbone {tower.name!r} has {tower.depth} blocks, and 1 is shallow")
        self.VPT = nn.Parameter(noise(n_ctx, tower.width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleDict({str(i): _Block(n_ctx, tower.width) for i in range(1, depth)})

    def layers(self) -> list[Tensor]:
        """The prompts of each prompted block, (M, D)."""
        return [self.VPT, *(block.VPT_shallow for block in self.transformer.resblocks.values())]  # type: ignore


class _Block(nn.Module):
    def __init__(self, n_ctx: int, width: int):
        super().__init__()
        self.VPT_shallow = nn.Parameter(noise(n_ctx, width))


class VisualPrompt(Method):
    """Prompt tokens in CLIP's frozen image tower; the classifier is the text features of `template`, made once.

    `n_ctx`: number of prompts M. `depth`: the first so many blocks have prompts of their own; 1 is shallow.
    `template`: a text with `{}` for the class name. `way`: how the tower is run (`prompted_features`); it changes no
    result. Learns `image_encoder.VPT` (M, D) and `image_encoder.transformer.resblocks.{i}.VPT_shallow` (M, D). The
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
        way: str = "auto",
    ):
        super().__init__(backbone, classes)
        self.options = dict(n_ctx=n_ctx, depth=depth, template=template, way=way)
        self.templates, self.way = [template], way
        self.image_encoder = VisualPrompts(backbone.image, n_ctx, depth)
        self.register_buffer("features", class_features(backbone, filled([template], classes)), persistent=False)

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E), not normalised."""
        first, *others = self.image_encoder.layers()
        return prompted_features(self.backbone.image, images, first, others, self.way)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.logits(self.image_features(images), self.features)

    def for_classes(self, names: Sequence[str]) -> Method:
        """The same visual prompts with the texts of other classes."""
        other = VisualPrompt(self.backbone, names, **self.options)  # type: ignore[arg-type]
        other.load_learned_state(self.learned_state())
        return other.to(self.features.device)
