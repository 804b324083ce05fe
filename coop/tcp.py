"""TCP: textual-based class-aware prompt tuning (Yao et al., CVPR 2024, arXiv:2311.18231)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from coop.parts.context import class_text, context_prompts
from coop.parts.context_method import ContextMethod
from coop.parts.knowledge import squared_distance
from coop.parts.objective import Step
from coop.parts.teacher import Teacher
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError


def embedding(feature_dim: int, out: int) -> nn.Sequential:
    """Class features (C, E) to (C, out) by way of E / 4 units: the textual knowledge embedding (section 3.2)."""
    hidden = max(1, feature_dim // 4)
    layers = dict(linear1=nn.Linear(feature_dim, hidden), relu=QuickGELU(), linear2=nn.Linear(hidden, out))
    return nn.Sequential(OrderedDict(layers))


class TCP(ContextMethod):
    """Contexts that at one block of the text tower give way to tokens made of each class's hand-written features.

    Contexts shared by the classes enter the tower; at the entrance of block `layer`, counted from 0, their places are
    taken by `meta_net(t_c)`, (M, D) for each class, t_c its normalised zero-shot feature. Layer 0 stands for two
    thirds of the tower's depth: the official block 8 of 12. The objective is the
    cross-entropy plus `weight` times KgCoOp's term (`squared_distance`). The bottleneck of E / 4 with QuickGELU, and
    nothing kept of what the contexts had become, are as in the official code. `templates`: the
    hand-written texts, with `{}` for the class name. `n_ctx`, `ctx_init` as in CoOp. Learns `ctx`
    (M, D) and `meta_net`.
    """

    def __init__(
        self,
        backbone: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int = 4,
        ctx_init: str = "",
        layer: int = 0,
        weight: float = 8.0,
        templates: Sequence[str] = (),
    ):
        own = dict(layer=layer, weight=weight, templates=templates)
        super().__init__(backbone, classes, n_ctx=n_ctx, ctx_init=ctx_init, **own)
        layer = layer or max(1, len(backbone.text.blocks) * 2 // 3)
        _check(backbone, layer)
        self.layer, count = layer, len(self.ctx)
        prefix = class_text(ctx_init)
        self.encoder = context_prompts(backbone.text, classes, count, prefix=prefix, class_specific=True)
        self.meta_net = embedding(backbone.image.feature_dim, count * backbone.text.width)
        self.templates = given_templates(templates)
        self.teacher = Teacher(classes, self.templates)
        self.terms = {"knowledge": (weight, self.distance)}

    def distance(self, step: Step) -> Tensor:
        """KgCoOp's term, a scalar."""
        return squared_distance(step.text_features, self.teacher.text_features(self.backbone))

    def class_prompts(self) -> Tensor:
        """(C, M, D): the tokens that know their class."""
        known = self.teacher.text_features(self.backbone).to(self.ctx.dtype)
        return self.meta_net(known).unflatten(-1, self.ctx.shape)

    def text_features(self) -> Tensor:
        count = len(self.classes)
        shared = [tokens.expand(count, -1, -1) for tokens in (self.ctx, *self.flow())]
        return self.encoder(self.backbone.text, shared[0], [*shared[1:], self.class_prompts()])

    def flow(self) -> list[Tensor]:
        """What the contexts have become at the entrances of blocks 1 to `layer` - 1, (M, D) each.

        In a causal tower it depends on no class: computed once, and given to the encoder as if it were prompts.
        """
        text, found = self.backbone.text, []
        encode: Callable[..., Tensor] = text.encode
        end = text.starts + len(self.ctx)

        def noting(block: nn.Module) -> Callable[..., Tensor]:
            def run(tokens: Tensor, **options: Tensor) -> Tensor:
                tokens = block(tokens, **options)
                found.append(tokens[0, text.starts :])
                return tokens

            return run

        first = self.encoder.prompts(self.ctx.expand(1, len(self.classes), -1, -1))[0, :1, :end]
        last = torch.tensor([end - 1], device=first.device)
        encode(first, last, [noting(block) for block in text.blocks[: self.layer - 1]])
        return found


def _check(backbone: CLIP, layer: int) -> None:
    depth = len(backbone.text.blocks)
    if not backbone.text.causal or not depth:
        raise InputError(f"the text tower of {backbone.name!r} is not a causal one of known blocks, which TCP needs")
    if not 1 <= layer < depth:
        raise InputError(f"layer is {layer}; the text tower has {depth} blocks, so that it may be 1 to {depth - 1}")
