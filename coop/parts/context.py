"""Prompts with learned context vectors before, around or after a class name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptvision.backbones import TextTower
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.prompt_encoder import PromptEncoder
from promptvision.errors import InputError, counted, unknown

POSITIONS = ("end", "middle", "front")
PLACEHOLDER = "X"
"""The word that a prompt is tokenised with in place of each context vector (CoOp, trainers/coop.py)."""


def class_text(name: str) -> str:
    """Return a class name as prompts spell it, with spaces for underscores."""
    return name.replace("_", " ")


def noise(*shape: int) -> Tensor:
    """Draw context vectors from N(0, 0.02) (CoOp, section 4.1)."""
    return torch.empty(*shape).normal_(std=0.02)


def initial_context(text: TextTower, n_ctx: int, ctx_init: str) -> Tensor:
    """Return the token embeddings of `ctx_init`, or, if it is empty, `n_ctx` vectors of noise, (M, D)."""
    if ctx_init:
        words = class_text(ctx_init)
        tokens = text.embed(text.tokenize([words]))[0, text.starts : text.starts + text.count(words)]
        return tokens.detach().float().clone()
    if n_ctx < 1:
        raise InputError(f"n_ctx is {n_ctx}; a prompt needs at least one context vector")
    return noise(n_ctx, text.width)


def context_prompts(
    text: TextTower,
    classes: Sequence[str],
    n_ctx: int,
    *,
    position: str = "end",
    prefix: str = "",
    ending: str = ".",
    class_specific: bool = False,
) -> PromptEncoder:
    """Return an encoder of the prompts "[ctx] class." of all classes, which takes the context vectors as input.

    `position`: where the class name is. "end": SOS, ctx, name; "middle": the first n_ctx // 2 vectors before the
    name, the others after it; "front": SOS, name, ctx (CoOp, arXiv:2109.01134, equations 2 and 3). The full stop
    and the end token always come last. `prefix`: words whose first n_ctx tokens are replaced by ctx. `ending`: what
    follows the name, in place of the full stop.
    """
    if position not in POSITIONS:
        raise unknown("class_token_position", position, POSITIONS)
    names = [class_text(name) for name in classes]
    start = class_text(prefix) or " ".join([PLACEHOLDER] * n_ctx)
    prompts = [f"{start} {name}{ending}" for name in names]
    longest, length = max(enumerate(map(text.count, prompts)), key=lambda pair: pair[1])
    room = text.context_length - text.marks
    if length > room:
        name = classes[longest] if len(classes[longest]) <= 60 else f"{classes[longest][:60]}..."
        raise InputError(
            f"{counted(n_ctx, 'context vector')} and the longest class name, {name!r}, make {length} tokens; the "
            f"text tower takes {room} between start and end"
        )
    ids = text.tokenize(prompts)
    order = token_order(position, text.starts, n_ctx, [text.count(name) for name in names], ids.shape[1]).to(ids.device)
    slots = torch.where((order >= text.starts) & (order < text.starts + n_ctx), order - text.starts, CONSTANT)
    return PromptEncoder(text, ids.gather(1, order), slots, text.eot(ids), class_specific=class_specific)


def token_order(position: str, start: int, n_ctx: int, name_lengths: Sequence[int], length: int) -> Tensor:
    """Return which token of "start, ctx, name, rest" comes at each place, (C, L); the start is one token, or none."""
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    begin, ctx = list(range(start)), list(range(start, start + n_ctx))
    rows = []
    for count in name_lengths:
        name = list(range(start + n_ctx, start + n_ctx + count))
        rows.append([*begin, *ctx[:before], *name, *ctx[before:], *range(start + n_ctx + count, length)])
    return torch.tensor(rows)
