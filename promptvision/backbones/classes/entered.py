"""Texts as they enter a later block of a frozen tower, computed once; each step encodes some of them from there on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.fast_text import PackedPrompts, known_views
from promptvision.backbones.fast_text_cache import Kept
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import TextTower

AT_ONCE = 256
"""Texts that pass the lower blocks together."""
Blocks = Mapping[int, Callable[..., Tensor]]


def entering(tower: OpenClipText, ids: Tensor, start: int) -> Tensor:
    """Return the tokens of texts, ids (N, L), as they enter block `start`, (N, L, D)."""
    length, kind = ids.shape[1], tower.positional_embedding.dtype
    mask = None if tower.mask is None else tower.mask[:length, :length].to(kind)
    found = list[Tensor]()
    for some in ids.split(AT_ONCE):
        tokens = tower.embed(some).to(kind) + tower.positional_embedding[:length]
        for block in tower.blocks[:start]:
            tokens = block(tokens, attn_mask=mask)
        found.append(tokens)
    return torch.cat(found)


class EnteredTexts(nn.Module):
    """Texts, token ids (N, L) with end tokens `eot` (N,), of which any can be encoded from block `start` on.

    The tokens that enter there are kept for each set of weights, without padding. In the fast way, texts that are
    encoded together are packed and share their common tokens; where dropout draws for every token they are filled up to
    the longest of them instead. The plain way runs all blocks.
    """

    ids: Tensor
    eot: Tensor
    first: Tensor

    def __init__(self, tower: TextTower, texts: Sequence[str], start: int):
        super().__init__()
        ids = tower.tokenize(texts)
        eot = tower.eot(ids)
        self.start, self.kept, self.lengths = start, Kept(), (eot + 1).tolist()
        self.register_buffer("ids", ids[:, : int(eot.max()) + 1].clone() if tower.causal else ids, persistent=False)
        self.register_buffer("eot", eot, persistent=False)
        self.register_buffer("first", (eot + 1).cumsum(0) - (eot + 1), persistent=False)

    def forward(self, tower: TextTower, which: Tensor, blocks: Blocks, views: Mapping[int, BlockView]) -> Tensor:
        """Encode texts `which` (M,) into features (M, E); `blocks[i]` or, taken apart, `views[i]` stand for block i.

        `which` is on the host, which plans by it and so waits for no number of the device where texts are filled up.
        """
        longest = max(self.lengths[number] for number in which.tolist())
        which = which.to(self.eot.device, non_blocking=True)
        known = tower.compute.views(
            lambda: known_views(tower), "the fast way needs a text tower of known, frozen and causal blocks"
        )
        if known is None:
            encode = cast(Callable[..., Tensor], tower.encode)
            works = [blocks.get(index, block) for index, block in enumerate(tower.blocks)]
            return encode(tower.embed(self.ids[which]).detach(), self.eot[which], works)
        assert isinstance(tower, OpenClipText)
        own = [views.get(index, view) for index, view in enumerate(known)][self.start :]
        if any(view.draws for view in own):
            return self._filled(tower, which, longest, own)
        no_contexts = torch.empty(1, 0, tower.width, device=self.ids.device)
        return PackedEntered(self, which)(tower, own, [no_contexts])[0]

    def states(self, tower: OpenClipText) -> Tensor:
        """Return the tokens of all texts up to their end tokens, one text after the other, (tokens, D)."""
        real = torch.arange(self.ids.shape[1], device=self.eot.device) <= self.eot[:, None]
        pairs = zip(self.ids.split(AT_ONCE), real.split(AT_ONCE), strict=True)
        return self.kept.get(
            tower, ("states",), lambda: torch.cat([entering(tower, ids, self.start)[here] for ids, here in pairs])
        )

    def _filled(self, tower: OpenClipText, which: Tensor, longest: int, views: Sequence[BlockView]) -> Tensor:
        """Encode texts filled up to `longest` tokens; no end token sees what comes after it."""
        eot = self.eot[which]
        place = torch.arange(longest, device=eot.device).minimum(eot[:, None])
        tokens = self.states(tower)[self.first[which, None] + place]
        mask = tokens.new_full((place.shape[1],) * 2, -torch.inf).triu(1)
        for view in views:
            tokens = view(tokens, attn_mask=mask)
        return tower.project(tokens[torch.arange(len(tokens), device=eot.device), eot])


class PackedEntered(PackedPrompts):
    """The packed layout of some texts that enter a later block."""

    def __init__(self, texts: EnteredTexts, which: Tensor):
        ids, eot = texts.ids[which], texts.eot[which]
        super().__init__(ids, torch.full_like(ids, CONSTANT), eot, False, changing=True)
        object.__setattr__(self, "texts", texts)  # not a part of this
        self.which = which

    def entering(self, tower: OpenClipText, classes: Tensor, position: Tensor) -> Tensor:
        texts: EnteredTexts = self.texts  # type: ignore[assignment]
        which = self.which[classes]
        return texts.states(tower)[texts.first[which] + position.minimum(texts.eot[which])]
