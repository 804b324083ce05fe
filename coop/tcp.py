"""TCP: textual-based class-aware prompt tuning (Yao et al., CVPR 2024, arXiv:2311.18231)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from coop.parts.context_method import ContextMethod
from coop.parts.objective import Step
from coop.parts.teacher import Teacher, squared_distance
from coop.parts.texts import given_templates
from promptvision.backbones import CLIP
from promptvision.errors import InputError, counted
from promptvision.method import Method


def embedding(feature_dim: int, out: int) -> nn.Sequential:
    """Map class features (C, E) to (C, out) through E / 4 units: the textual knowledge embedding (section 3.2)."""
    hidden = max(1, feature_dim // 4)
    layers = dict(linear1=nn.Linear(feature_dim, hidden), relu=QuickGELU(), linear2=nn.Linear(hidden, out))
    return nn.Sequential(OrderedDict(layers))


class TCP(ContextMethod):
    """Contexts that one block of the text tower replaces by tokens made of each class's hand-written features.

    Contexts shared by the classes enter the tower; at the entrance of one block `meta_net(t_c)` takes their places,
    (M, D) for each class with normalised zero-shot feature t_c. As in the official code, the bottleneck of E / 4 has
    QuickGELU, and nothing remains of the replaced contexts. `prompt`: the sentence around `{}`, the class name; its
    first M tokens give way to the contexts, which stand alone if no words precede `{}` ("{} texture."); empty for the
    contexts, the name and a full stop. The official code has a prompt for each dataset. `layer`: the block, counted
    from 0; 0 means two thirds of the tower's depth, the official block 8 of 12. `weight`: weight of KgCoOp's term
    (`squared_distance`) beside the cross-entropy. `templates`: the hand-written texts, with `{}` for the class name.
    `n_ctx`, `ctx_init` as in CoOp.
    Learns `ctx` (M, D) and `meta_net`.
    """

    class_specific = True
    stackable = True

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *, n_ctx: int = 4, ctx_init: str = "", prompt: str = "",
        layer: int = 0, weight: float = 8.0, templates: Sequence[str] = (),
    ):  # fmt: skip
        super().__init__(backbone, classes)
        depth, count = len(backbone.text.blocks), len(self.ctx)
        self.layer = layer or max(1, depth * 2 // 3)
        if not backbone.text.causal or not depth:
            raise InputError(
                f"the text tower of {backbone.name!r} is not a causal one of known blocks, which TCP needs"
            )
        if not 1 <= self.layer < depth:
            raise InputError(
                f"layer is {self.layer}; the text tower has {counted(depth, 'block')}, so it can be 1 to {depth - 1}"
            )
        self.meta_net = embedding(backbone.image.feature_dim, count * backbone.text.width)
        self.templates = given_templates(templates)
        self.teacher = Teacher(classes, self.templates)
        self.terms = {"knowledge": (weight, self.distance)}

    def start(self) -> tuple[Tensor, str]:
        ctx, usual = super().start()
        prompt, text = self.options["prompt"] or usual, self.backbone.text
        words, *rest = prompt.split("{}")
        if len(rest) != 1:
            raise InputError(f"prompt {prompt!r} needs one {{}}, where the class name goes, not {len(rest)}")
        if words.strip() and text.count(words) < len(ctx):
            found, replaced = counted(text.count(words), "token"), counted(len(ctx), "context")
            raise InputError(f"prompt {prompt!r} has {found} before {{}}; {replaced} take the places of as many")
        return ctx, prompt

    def distance(self, step: Step) -> Tensor:
        """Return KgCoOp's term, a scalar."""
        return squared_distance(step.text_features, self.teacher.text_features(self.backbone))

    def to_half(self, training: bool) -> Sequence[Method]:
        return super().to_half(True)  # predictions need the teacher too

    def text_features(self) -> Tensor:
        count = len(self.classes)
        known = self.teacher.text_features(self.backbone).to(self.ctx.dtype)
        class_prompts = self.meta_net(known).unflatten(-1, self.ctx.shape)
        shared = [tokens.expand(count, -1, -1) for tokens in (self.ctx, *self.flow())]
        return self.encoder(self.backbone.text, shared[0], [*shared[1:], class_prompts])

    def flow(self) -> list[Tensor]:
        """Return the contexts at the entrances of blocks 1 to `layer` - 1, (M, D) each.

        In a causal tower they depend on no class: they are computed once and given to the encoder as prompts.
        """
        text, passed = self.backbone.text, list[Tensor]()
        encode: Callable[..., Tensor] = text.encode
        end = text.starts + len(self.ctx)

        def noted(block: nn.Module, tokens: Tensor, **options: Tensor) -> Tensor:
            passed.append(block(tokens, **options))
            return passed[-1]

        first = self.encoder.prompts(text, self.ctx.expand(1, len(self.classes), -1, -1))[:1, :end]
        last = torch.arange(end - 1, end, device=first.device)
        encode(first, last, [partial(noted, block) for block in text.blocks[: self.layer - 1]])
        return [tokens[0, text.starts :] for tokens in passed]
