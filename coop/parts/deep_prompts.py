"""Prompts for several blocks of CLIP's two towers, each block its own, with the names of the official checkpoints.

Deep prompts as in VPT (arXiv:2203.12119, section 3.2), in both towers as in the baseline IVLP of MaPLe
(arXiv:2210.03117, table 1): depth d means those that enter the tower and those that replace them at blocks 1 to d - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from coop.parts.context import class_text, context_prompts, initial_context, noise
from coop.parts.objective import FeatureMethod
from promptvision.backbones import CLIP, ImageTower, TextTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.errors import InputError, counted


class DeepPrompts(nn.Module):
    """Vectors (M, D) for blocks 1 to `depth` - 1 from N(0, 0.02): `transformer.resblocks.{i}.VPT_shallow`."""

    def __init__(self, n_ctx: int, width: int, depth: int):
        super().__init__()
        self.transformer = nn.Module()
        blocks = {str(i): nn.ParameterDict({"VPT_shallow": noise(n_ctx, width)}) for i in range(1, depth)}
        self.transformer.resblocks = nn.ModuleDict(blocks)

    def layers(self) -> list[Tensor]:
        """Return the prompts of blocks 1 to `depth` - 1, (M, D)."""
        return [block["VPT_shallow"] for block in self.transformer.resblocks.values()]  # type: ignore


class VisualPrompts(DeepPrompts):
    """Deep prompts of an image tower; the first, `VPT` (M, D), enter before its first norm (`ImageTower.enter`)."""

    def __init__(self, tower: ImageTower, n_ctx: int, depth: int, option: str = "depth"):
        check_image_depth(tower, depth, option)
        if n_ctx < 1:
            raise InputError(f"n_ctx is {n_ctx}; there must be at least one visual prompt")
        super().__init__(n_ctx, tower.width, depth)
        self.VPT = nn.Parameter(noise(n_ctx, tower.width))

    def features(self, tower: ImageTower, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with the prompts among their tokens into features (B, E)."""
        return prompted_features(tower, images, self.VPT, self.layers())


def check_image_depth(tower: ImageTower, depth: int, option: str) -> None:
    """Raise InputError for towers without blocks, and for depths beyond their number of blocks."""
    if not tower.depth:
        raise tower.refusal()
    if not 1 <= depth <= tower.depth:
        raise InputError(
            f"{option} is {depth}; backbone {tower.name!r} has {counted(tower.depth, 'block')}, and 1 is shallow"
        )


def check_text_depth(tower: TextTower, depth: int, option: str) -> None:
    """Raise InputError for depths beyond the number of blocks; depth 1 works without access to any."""
    if not 1 <= depth <= max(1, len(tower.blocks)):
        here = f"has {counted(len(tower.blocks), 'block')}" if tower.blocks else "shows no blocks"
        raise InputError(f"{option} is {depth}; the text tower {here}, and 1 is shallow")


def blocks_of_both(clip: CLIP, chosen: Sequence[int], first: Callable[[int], int]) -> list[int]:
    """Return the blocks that change in both towers, from 0: the chosen ones, or all from `first(depth)` on."""
    if not clip.image.depth:
        raise clip.image.refusal()
    if not clip.text.blocks:
        raise InputError(f"the text tower of {clip.name!r} shows no blocks; choose a CLIP of two transformers")
    depth = min(clip.image.depth, len(clip.text.blocks))
    layers = list(chosen) or list(range(first(depth), depth))
    if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        has = counted(depth, "block")
        raise InputError(f"layers is {layers}; it takes rising numbers from 0 to {depth - 1}: both towers have {has}")
    return layers


def leading_words(text: TextTower, n_ctx: int, ctx_init: str) -> tuple[Tensor, str]:
    """Return contexts (n_ctx, D), and the words whose first tokens they replace; the other words stay as they are.

    The contexts start at the embeddings of those tokens, or as noise if there are fewer, and then no words stay (the
    official trainers IVLP, MaPLe, PromptSRC; CoOp's n_ctx is the number of its words instead).
    """
    if n_ctx < 1:
        raise InputError(f"n_ctx is {n_ctx}; a prompt needs at least one context vector")
    words = class_text(ctx_init)
    if not words or text.count(words) < n_ctx:
        return noise(n_ctx, text.width), ""
    return initial_context(text, 0, ctx_init)[:n_ctx], words


class IndependentPrompts(FeatureMethod):
    """Prompts in both towers that are independent of each other.

    Subclasses have the options `n_ctx_text` and `n_ctx_vision`, vectors per block; `depth_text` and `depth_vision`,
    number of blocks with prompts of their own, where 1 is shallow and `depth_vision` 0 leaves the image tower alone;
    `ctx_init`, words that the contexts start from (`leading_words`).
    """

    def __init__(self, backbone: CLIP, classes: Sequence[str]):
        super().__init__(backbone, classes)
        n_ctx, depth, options = self.options["n_ctx_text"], self.options["depth_text"], self.options
        self.frozen_images = not options["depth_vision"]
        if not depth:
            raise InputError("depth_text is 0; for visual prompts alone take METHOD.NAME vpt")
        check_text_depth(backbone.text, depth, "depth_text")
        ctx, words = leading_words(backbone.text, n_ctx, options["ctx_init"])
        self.encoder = context_prompts(backbone.text, classes, n_ctx, prefix=words)
        self.prompt_learner = nn.ParameterDict({"ctx": ctx})
        self.text_encoder = DeepPrompts(n_ctx, backbone.text.width, depth)
        if options["depth_vision"]:
            visual = options["n_ctx_vision"], options["depth_vision"]
            self.image_encoder = VisualPrompts(backbone.image, *visual, "depth_vision")

    def image_features(self, images: Tensor) -> Tensor:
        if self.frozen_images:
            return super().image_features(images)
        return self.image_encoder.features(self.backbone.image, images)

    def text_features(self) -> Tensor:
        return self.encoder(self.backbone.text, self.prompt_learner["ctx"], self.text_encoder.layers())
