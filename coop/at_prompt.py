"""ATPrompt: attribute-based visual alignment of prompts (Li et al., ICCV 2025, arXiv:2412.09442)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coop.parts.addition import Addition
from coop.parts.context import PLACEHOLDER
from promptvision.backbones import CLIP, TextTower
from promptvision.backbones.fast_text import Layers
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.prompt_encoder import PromptEncoder
from promptvision.errors import InputError, counted


class ATPrompt(Addition):
    """Attribute words, each after learned vectors, before a host's prompt: "[v] color [v] shape [ctx] class".

    In a host with deep prompts, these replace its own contexts alone; attributes and their vectors run through.

    `host`: the method that it is added to, coop, kg_coop, cocoop, maple or prompt_src, whose options are options here
    too. `attributes`: the words. `n_att`: number of vectors before each attribute; 0 for as many as before the class.
    `one_token`: treat every attribute as one token, as the official code does; an attribute of two tokens then moves
    all that follows, and later vectors replace words.
    Learns what the host learns, and `ctx_att1`, `ctx_att2`, ..., each (n_att, D), from N(0, 0.01).
    """

    encoder: PromptEncoder

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        host: str = "coop", attributes: Sequence[str] = ("color", "shape"), n_att: int = 0, one_token: bool = False,
        **of_host: Any,
    ):  # fmt: skip
        super().__init__(backbone, classes, **of_host)
        if not attributes or not all(word.strip() for word in attributes):
            raise InputError("attributes takes words such as color and shape, at least one and none empty")
        if n_att < 0:
            raise InputError(f"n_att is {n_att}; it is 0 or the number of vectors before each attribute")
        count = n_att or self.encoder.n_ctx
        self.encoder = AttributePrompts(backbone.text, self.encoder, attributes, count, one_token)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; those of attributes that the official code keeps unused are ignored."""
        known = set(self.learned())
        unused = {f"{place}ctx_att{i}" for i in (1, 2, 3) for place in ("", "prompt_learner.")} - known
        super().load_learned_state({name: tensor for name, tensor in state.items() if name not in unused})


class AttributePrompts(PromptEncoder):
    """The prompts of another encoder with attributes after the start, and vectors `ctx_att{i}` before each of them."""

    def __init__(self, tower: TextTower, inner: PromptEncoder, attributes: Sequence[str], count: int, one_token: bool):
        start, device = tower.starts, inner.ids.device
        words = " ".join(f"{' '.join([PLACEHOLDER] * count)} {word}" for word in attributes)
        length, room = tower.count(words), tower.context_length
        if (last := int(inner.eot.max()) + length) >= room:
            raise InputError(
                f"with {counted(len(attributes), 'attribute')} the longest prompt ends at token {last + 1}; the text "
                f"tower takes {room}"
            )
        added = tower.tokenize([words])[0, start : start + length].to(device)
        lengths = [1 if one_token else tower.count(word) for word in attributes]
        vectors = [range(i * count, (i + 1) * count) for i in range(len(attributes))]
        before = [slot for own, n in zip(vectors, lengths, strict=True) for slot in (*own, *[CONSTANT] * n)]
        others = torch.where(inner.slots >= 0, inner.slots + count * len(attributes), CONSTANT)
        ids, slots = (
            torch.cat([rows[:, :start], own.expand(len(rows), -1), rows[:, start:]], dim=1)
            for rows, own in ((inner.ids, added), (others, torch.tensor(before, device=device)))
        )
        slots = nn.functional.pad(slots, (0, ids.shape[1] - slots.shape[1]), value=CONSTANT)
        eot = inner.eot + length
        super().__init__(tower, ids[:, :room], slots[:, :room], eot, class_specific=inner.class_specific)
        self.names = [f"ctx_att{number + 1}" for number in range(len(attributes))]
        for name in self.names:
            self.register_parameter(name, nn.Parameter(torch.empty(count, tower.width).normal_(std=0.01)))

    def forward(self, tower: TextTower, ctx: Tensor, deep: Layers = ()) -> Tensor:
        own = torch.cat([getattr(self, name) for name in self.names])
        return super().forward(tower, torch.cat([own.expand(*ctx.shape[:-2], -1, -1), ctx], dim=-2), deep)
