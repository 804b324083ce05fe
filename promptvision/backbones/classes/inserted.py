"""Texts with learned tokens inserted at a later block: what lies below that block is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from promptvision.backbones.classes.entered import entering
from promptvision.backbones.fast_text import Layers, PackedPrompts, mixed
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.prompt_encoder import PromptEncoder
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import TextTower
from promptvision.errors import InputError, counted


class InsertedTokens(PromptEncoder):
    """Texts of C classes with K learned tokens between the start token and the words from block `start` on.

    Below that block a text is encoded as it is. There the tokens are inserted without positions; at each later block
    that has vectors, `share` of these enters, and for the rest the tokens that the block before returned. In the fast
    way, blocks below `start` are computed once per set of weights, and the start token and the K tokens, which no class
    changes, once for all texts.
    """

    def __init__(self, tower: TextTower, texts: Sequence[str], count: int, start: int, share: float = 1.0):
        if not 0 <= start < len(tower.blocks):
            has = f"has {counted(len(tower.blocks), 'block')}" if tower.blocks else "shows no blocks"
            raise InputError(f"tokens cannot be inserted at block {start + 1} of the text tower: it {has}")
        self.start, self.share, self.at, self.count = start, share, tower.starts, count
        ids = tower.tokenize(texts)
        new = torch.arange(count, device=ids.device).expand(len(ids), -1)
        before, after = ids[:, : self.at], ids[:, self.at :]
        slots = torch.cat([torch.full_like(before, CONSTANT), new, torch.full_like(after, CONSTANT)], dim=1)
        longer = torch.cat([before, torch.zeros_like(new), after], dim=1)
        super().__init__(tower, longer, slots, tower.eot(ids) + count)

    def packing(self, ids: Tensor, slots: Tensor, eot: Tensor) -> PackedPrompts:
        """Return the layout, which knows where the tokens are inserted.

        Its `start` is the block that the layout's tokens enter.
        """
        packed = PackedInserted(ids, slots, eot, False)
        packed.start, packed.share, packed.at, packed.count = self.start, self.share, self.at, self.count
        return packed

    def encoded(self, tower: TextTower, part: Tensor, layers: Layers) -> Tensor:
        """Encode texts `part` (N,) whole, with `layers` of one row entering the blocks from `start` on."""
        packed, blocks = cast(PackedInserted, self.packed), list[Callable[..., Tensor]](tower.blocks)
        for index in range(self.start, len(blocks)):
            own = layers[index - self.start] if index - self.start < len(layers) else None
            blocks[index] = partial(self._block, blocks[index], index, None if own is None else own[0])
        encode = cast(Callable[..., Tensor], tower.encode)
        return encode(tower.embed(packed.words[part]).detach(), self.eot[part], blocks)

    def _block(
        self, block: Callable[..., Tensor], index: int, own: Tensor | None, tokens: Tensor, attn_mask: Tensor | None
    ) -> Tensor:
        """Run block `index` on tokens (N, L, D), with the vectors (K, D) that enter there, if any, put in."""
        at, after, count = self.at, self.at + self.count, len(tokens)
        if own is not None:
            own = own.to(tokens.dtype).expand(count, -1, -1)
            rest = tokens[:, at:] if index == self.start else tokens[:, after:]
            own = own if index == self.start else mixed(own, tokens[:, at:after], self.share)
            tokens = torch.cat([tokens[:, :at], own, rest], dim=1)
        length = tokens.shape[1]
        mask = None if attn_mask is None else tokens.new_full((length, length), -torch.inf).triu(1)
        return block(tokens, attn_mask=mask)


class PackedInserted(PackedPrompts):
    """The packed layout of `InsertedTokens`, whose tokens enter at block `start`."""

    start: int
    at: int
    count: int

    @property
    def words(self) -> Tensor:
        """The token ids of the texts alone, (C, L)."""
        return torch.cat([self.ids[:, : self.at], self.ids[:, self.at + self.count :]], dim=1)

    def entering(self, tower: OpenClipText, classes: Tensor, position: Tensor) -> Tensor:
        """Return tokens (..., D) as they enter block `start`, 0 in the places of the inserted ones."""
        states = self.kept.get(tower, ("states",), lambda: entering(tower, self.words, self.start))
        here = self.slots[classes, position][..., None] >= 0
        place = torch.where(position < self.at, position, (position - self.count).clamp(min=0))
        return torch.where(here, 0, states[classes, place])
