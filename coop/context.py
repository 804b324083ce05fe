"""Prompts with learned contexts: what CoOp and its descendants put before, around or behind a class name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import TextTower
from promptvision.errors import InputError, unknown

POSITIONS = ("end", "middle", "front")
PLACEHOLDER = "X"
"""The word that holds the place of one context vector while a prompt is tokenised (CoOp, trainers/coop.py)."""


def class_text(name: str) -> str:
    """A class name as it stands in a prompt: underscores are spaces."""
    return name.replace("_", " ")


def initial_context(text: TextTower, n_ctx: int, ctx_init: str) -> Tensor:
    """(M, D): the token embeddings of `ctx_init`, or, if it is empty, `n_ctx` vectors from N(0, 0.02) (section 4.1)."""
    if not ctx_init:
        if n_ctx < 1:
            raise InputError(f"n_ctx is {n_ctx}; a prompt needs at least one context vector")
        return torch.empty(n_ctx, text.width).normal_(std=0.02)
    words = class_text(ctx_init)
    return text.embed(text.tokenize([words]))[0, 1 : 1 + text.count(words)].detach().float().clone()


class ContextPrompts(nn.Module):
    """The prompts "[ctx] class." of all classes as embeddings in which the context vectors can be exchanged.

    `position`: where the class name stands. "end": SOS, ctx, name; "middle": the first n_ctx // 2 vectors before the
    name, the others behind it; "front": SOS, name, ctx (CoOp, arXiv:2109.01134, equations 2 and 3). The full stop
    and the end token come last in each. `prefix` is the text that is replaced by ctx: placeholders or words.
    """

    embeddings: Tensor
    order: Tensor
    eot: Tensor

    def __init__(self, text: TextTower, classes: Sequence[str], n_ctx: int, position: str, prefix: str = ""):
        super().__init__()
        if position not in POSITIONS:
            raise unknown("class_token_position", position, POSITIONS)
        self.n_ctx = n_ctx
        names = [class_text(name) for name in classes]
        ids = text.tokenize([f"{prefix or ' '.join([PLACEHOLDER] * n_ctx)} {name}." for name in names])
        lengths = [text.count(name) for name in names]
        self.register_buffer("embeddings", text.embed(ids).detach(), persistent=False)
        self.register_buffer("eot", text.eot(ids), persistent=False)
        self.register_buffer("order", _orders(position, n_ctx, lengths, ids.shape[1]).to(ids.device), persistent=False)

    def forward(self, ctx: Tensor) -> Tensor:
        """Shared (M, D) or class-specific (C, M, D) contexts to prompts (C, L, D)."""
        known = self.embeddings
        vectors = ctx.to(known.dtype).expand(len(known), -1, -1)
        prompts = torch.cat([known[:, :1], vectors, known[:, 1 + self.n_ctx :]], dim=1)
        return prompts.gather(1, self.order[..., None].expand_as(prompts))


def _orders(position: str, n_ctx: int, name_lengths: Sequence[int], length: int) -> Tensor:
    """(C, L): which token of "SOS, ctx, name, rest" stands at each place."""
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    ctx = list(range(1, 1 + n_ctx))
    rows = []
    for count in name_lengths:
        name = list(range(1 + n_ctx, 1 + n_ctx + count))
        rows.append([0, *ctx[:before], *name, *ctx[before:], *range(1 + n_ctx + count, length)])
    return torch.tensor(rows)
