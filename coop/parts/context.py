"""Prompts with learned contexts: what CoOp and its descendants put before, around or behind a class name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptvision.backbones import TextTower
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.prompt_encoder import PromptEncoder
from promptvision.errors import InputError, unknown

POSITIONS = ("end", "middle", "front")
PLACEHOLDER = "X"
"""The word that holds the place of one context vector while a prompt is tokenised (CoOp, trainers/coop.py)."""


def class_text(name: str) -> str:
    """A class name as it stands in a prompt: underscores are spaces."""
    return name.replace("_", " ")


def noise(*shape: int) -> Tensor:
    """Random context vectors, N(0, 0.02) (CoOp, section 4.1)."""
    return torch.empty(*shape).normal_(std=0.02)


def initial_context(text: TextTower, n_ctx: int, ctx_init: str) -> Tensor:
    """(M, D): the token embeddings of `ctx_init`, or, if it is empty, `n_ctx` vectors of noise."""
    if not ctx_init:
        if n_ctx < 1:
            raise InputError(f"n_ctx is {n_ctx}; a prompt needs at least one context vector")
        return noise(n_ctx, text.width)
    words = class_text(ctx_init)
    return text.embed(text.tokenize([words]))[0, text.starts : text.starts + text.count(words)].detach().float().clone()


def context_prompts(
    text: TextTower,
    classes: Sequence[str],
    n_ctx: int,
    *,
    position: str = "end",
    prefix: str = "",
    ending: str = ".",
    class_specific: bool = False,
    tile: int = 64,
) -> PromptEncoder:
    """The prompts "[ctx] class." of all classes, in which the context vectors can be exchanged.

    `position`: where the class name stands. "end": SOS, ctx, name; "middle": the first n_ctx // 2 vectors before the
    name, the others behind it; "front": SOS, name, ctx (CoOp, arXiv:2109.01134, equations 2 and 3). The full stop
    and the end token come last in each. `prefix`: words whose first n_ctx tokens give way to ctx. `ending`: what
    follows the name, in place of the full stop. `tile` as in PromptEncoder.
    """
    if position not in POSITIONS:
        raise unknown("class_token_position", position, POSITIONS)
    names = [class_text(name) for name in classes]
    prompts = [f"{prefix or ' '.join([PLACEHOLDER] * n_ctx)} {name}{ending}" for name in names]
    _refuse_too_long(text, n_ctx, classes, [text.count(prompt) for prompt in prompts])
    ids = text.tokenize(prompts)
    lengths = [text.count(name) for name in names]
    order = _orders(position, text.starts, n_ctx, lengths, ids.shape[1]).to(ids.device)
    slots = torch.where((order >= text.starts) & (order < text.starts + n_ctx), order - text.starts, CONSTANT)
    embeddings = text.embed(ids.gather(1, order)).detach()
    eot = text.eot(ids)
    return PromptEncoder(text, embeddings, slots, eot, class_specific=class_specific, tile=tile)


def check_width(state: Mapping[str, Tensor], text: TextTower) -> None:
    """Refuse learned contexts (..., M, D) of a backbone whose text tower has another width."""
    ctx = state.get("ctx")
    if ctx is not None and ctx.shape[-1:] != (text.width,):
        raise InputError(f"ctx has shape {tuple(ctx.shape)}; this backbone's text width is {text.width}")


def refuse_csc(options: Mapping[str, object]) -> None:
    """Class-specific contexts name no new classes."""
    if options["csc"]:
        raise InputError("class-specific contexts (csc) belong to the classes they were trained on; train with csc off")


def _refuse_too_long(text: TextTower, n_ctx: int, classes: Sequence[str], lengths: Sequence[int]) -> None:
    longest = max(range(len(classes)), key=lambda index: lengths[index])
    name = classes[longest] if len(classes[longest]) <= 60 else f"{classes[longest][:60]}..."
    room = text.context_length - text.marks
    if lengths[longest] > room:
        raise InputError(
            f"{n_ctx} context vectors and the longest class name, {name!r}, make {lengths[longest]} tokens; the text "
            f"tower takes {room} between start and end"
        )


def _orders(position: str, start: int, n_ctx: int, name_lengths: Sequence[int], length: int) -> Tensor:
    """(C, L): which token of "start, ctx, name, rest" stands at each place; the start is one token, or none."""
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    begin, ctx = list(range(start)), list(range(start, start + n_ctx))
    rows = []
    for count in name_lengths:
        name = list(range(start + n_ctx, start + n_ctx + count))
        rows.append([*begin, *ctx[:before], *name, *ctx[before:], *range(start + n_ctx + count, length)])
    return torch.tensor(rows)
