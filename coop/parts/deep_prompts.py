"""Prompts for several blocks of CLIP's two towers, every block's its own, by the names of the official checkpoints.

Deep prompts as in VPT (arXiv:2203.12119, section 3.2), in both towers as in the baseline IVLP of MaPLe
(arXiv:2210.03117, table 1): depth d means those that enter the tower and those that replace them at blocks 1 to d - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from coop.parts.context import class_text, context_prompts, initial_context, noise
from coop.parts.objective import FeatureMethod
from promptvision.backbones import CLIP, ImageTower, TextTower
from promptvision.backbones.fast_image import prompted_features
from promptvision.errors import InputError


class DeepPrompts(nn.Module):
    """(M, D) vectors for blocks 1 to `depth` - 1, N(0, 0.02): `transformer.resblocks.{i}.VPT_shallow`."""

    def __init__(self, n_ctx: int, width: int, depth: int):
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleDict({str(i): _Block(n_ctx, width) for i in range(1, depth)})

    def layers(self) -> list[Tensor]:
        """The prompts of each prompted block, (M, D)."""
        return [block.VPT_shallow for block in self.transformer.resblocks.values()]  # type: ignore


class _Block(nn.Module):
    def __init__(self, n_ctx: int, width: int):
        super().__init__()
        self.VPT_shallow = nn.Parameter(noise(n_ctx, width))


class VisualPrompts(DeepPrompts):
    """Those of an image tower; the first, `VPT` (M, D), enter before its first norm (`ImageTower.enter`)."""

    def __init__(self, tower: ImageTower, n_ctx: int, depth: int, option: str = "depth"):
        check_image_depth(tower, depth, option)
        if n_ctx < 1:
            raise InputError(f"n_ctx is {n_ctx}; there must be at least one visual prompt")
        super().__init__(n_ctx, tower.width, depth)
        self.VPT = nn.Parameter(noise(n_ctx, tower.width))

    def layers(self) -> list[Tensor]:
        return [self.VPT, *super().layers()]


class Contexts(nn.Module):
    """The contexts (M, D) that enter the text tower: `ctx`."""

    def __init__(self, ctx: Tensor):
        super().__init__()
        self.ctx = nn.Parameter(ctx)


def check_image_depth(tower: ImageTower, depth: int, option: str) -> None:
    """Refuse towers without blocks, and depths that are no number of blocks."""
    if not tower.depth:
        raise tower.refusal()
    if not 1 <= depth <= tower.depth:
        raise InputError(f"{option} is {depth}; backbone {tower.name!r} has {tower.depth} blocks, and 1 is shallow")


def check_text_depth(tower: TextTower, depth: int, option: str) -> None:
    """Refuse depths that are no number of blocks; 1 needs none that can be reached."""
    if not 1 <= depth <= max(1, len(tower.blocks)):
        here = f"has {len(tower.blocks)} blocks" if tower.blocks else "shows no blocks"
        raise InputError(f"{option} is {depth}; the text tower {here}, and 1 is shallow")


def leading_words(text: TextTower, n_ctx: int, ctx_init: str) -> tuple[Tensor, str]:
    """Contexts (n_ctx, D) and the words whose first tokens they take the places of; the other words stay as they are.

    They start at the embeddings of those tokens, or as noise if there are fewer, and then no words stay (the official
    trainers IVLP, MaPLe, PromptSRC; CoOp's n_ctx is the number of its words instead).
    """
    if n_ctx < 1:
        raise InputError(f"n_ctx is {n_ctx}; a prompt needs at least one context vector")
    words = class_text(ctx_init)
    if not words or text.count(words) < n_ctx:
        return noise(n_ctx, text.width), ""
    return initial_context(text, 0, ctx_init)[:n_ctx], words


class IndependentPrompts(FeatureMethod):
    """Prompts in both towers that know nothing of each other.

    `n_ctx_text`, `n_ctx_vision`: vectors per block. `depth_text`, `depth_vision`: blocks that have prompts of their
    own; 1 is shallow, `depth_vision` 0 leaves the image tower alone. `ctx_init`: words the contexts start from
    (`leading_words`). `options`: the other keyword arguments of the subclass.
    """

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx_text: int,
        n_ctx_vision: int,
        depth_text: int,
        depth_vision: int,
        ctx_init: str,
        **options: Any,
    ):
        super().__init__(backbone, classes)
        self.options = dict(n_ctx_text=n_ctx_text, n_ctx_vision=n_ctx_vision, depth_text=depth_text)
        self.options |= dict(depth_vision=depth_vision, ctx_init=ctx_init, **options)
        self.frozen_images = not depth_vision
        if not depth_text:
            raise InputError("depth_text is 0; for visual prompts alone take METHOD.NAME vpt")
        check_text_depth(backbone.text, depth_text, "depth_text")
        ctx, words = leading_words(backbone.text, n_ctx_text, ctx_init)
        self.encoder = context_prompts(backbone.text, classes, n_ctx_text, prefix=words)
        self.prompt_learner = Contexts(ctx)
        self.text_encoder = DeepPrompts(n_ctx_text, backbone.text.width, depth_text)
        if depth_vision:
            self.image_encoder = VisualPrompts(backbone.image, n_ctx_vision, depth_vision, "depth_vision")

    def image_features(self, images: Tensor) -> Tensor:
        if self.frozen_images:
            return super().image_features(images)
        first, *others = self.image_encoder.layers()
        return prompted_features(self.backbone.image, images, first, others)

    def text_features(self) -> Tensor:
        return self.encoder(self.backbone.text, self.prompt_learner.ctx, self.text_encoder.layers())
