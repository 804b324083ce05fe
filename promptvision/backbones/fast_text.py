"""Text encoding, the exact fast way: prompts of many classes share what they have in common.

A causal tower's output at a token depends on earlier tokens alone. So: nothing behind the last end token is computed;
what all prompts begin with runs once, and each class's own tokens attend to it; those own tokens of many classes are
packed into tiles with a mask; the last block is computed at the end tokens only; and what no context vector precedes
(start token, class names in front) is computed once per set of weights. Equal to the plain way up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from promptvision.backbones.blocks import BlockView, view_block
from promptvision.backbones.fast_text_cache import Cache, Constants, causal, join
from promptvision.backbones.packing import PackedLayout
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import TextTower


def known_views(tower: nn.Module) -> list[BlockView] | None:
    """Views of all blocks of a frozen causal tower, or None if any part of it is not known."""
    if not isinstance(tower, OpenClipText) or not tower.causal:
        return None
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return None
    views = [view_block(block) for block in tower.blocks]
    return None if None in views else views  # type: ignore[return-value]


class PackedPrompts(PackedLayout):
    """Prompts of C classes in their packed layout, ready to be encoded."""

    _key: tuple[object, ...] = ()

    def forward(self, tower: TextTower, views: Sequence[BlockView], layers: Sequence[Tensor], chunk: int = 0) -> Tensor:
        """Contexts (R, M, D), or (R, C, M, D) if class-specific, to features (R, C, E).

        `layers[0]` are the contexts that enter the tower, `layers[i]` those that take their places at block i.
        `chunk`: classes computed at once, about, 0 for all; each chunk is computed again in backward.
        """
        assert isinstance(tower, OpenClipText)
        layers = [layer.to(tower.positional_embedding.dtype) for layer in layers]
        constant = self._constants(tower, views)
        trunk = self._trunk(views, constant, layers)
        size = max(1, self.plan.tiles * chunk // len(self.slots)) if chunk else self.plan.tiles
        starts = range(0, self.plan.tiles, size)
        again = len(starts) > 1 and torch.is_grad_enabled()
        found = []
        for start in starts:
            work = (views, constant, trunk, layers, slice(start, start + size))
            found.append(checkpoint(self._ends, *work, use_reentrant=False) if again else self._ends(*work))
        return tower.project(torch.cat(found, dim=1).flatten(1, 2)[:, self.order])

    def _constants(self, tower: OpenClipText, views: Sequence[BlockView]) -> Constants:
        """What no context vector touches; computed anew when a weight, its place or its precision has changed."""
        if self.changing:
            return Constants.of(self, tower, views)
        autocast = torch.is_autocast_enabled(self.embeddings.device.type)
        precision = torch.get_autocast_dtype(self.embeddings.device.type) if autocast else None
        key = (precision, *((p.data_ptr(), p._version, p.dtype, p.device) for p in tower.parameters()))
        if key != self._key:
            with torch.no_grad():
                self._kept = Constants.of(self, tower, views)
            self._key = key
        return self._kept

    def _trunk(self, views: Sequence[BlockView], constant: Constants, layers: Sequence[Tensor]) -> Cache:
        """Keys and values (R, H, trunk, D / H) of what all prompts begin with, at every block."""
        rows = len(layers[0])
        cache = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in constant.frozen]
        if self.plan.frozen == self.plan.trunk:
            return cache
        slots = self.slots[0, self.plan.frozen : self.plan.trunk]
        tokens = _with_contexts(constant.live, slots, layers[0][:, slots.clamp(min=0)])
        for index, view in enumerate(views):
            if 0 < index < len(layers):
                tokens = _replaced(tokens, slots, layers[index][:, slots.clamp(min=0)])
            query, key, value = view.split(view.part(view.norm1(tokens), 0, 3), 3)
            keys, values = join(cache[index], (key, value))
            cache[index] = keys, values
            if index < len(views) - 1:
                mask = causal(len(slots), keys.shape[-2], keys.device)
                tokens = view.finish(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask), tokens)
        return cache

    def _ends(
        self,
        views: Sequence[BlockView],
        constant: Constants,
        trunk: Cache,
        layers: Sequence[Tensor],
        tiles: slice,
    ) -> Tensor:
        """The end tokens (R, T, E, D) of some tiles after the last block."""
        rows, ends = len(layers[0]), self.ends[tiles]
        tokens = constant.tokens[tiles].expand(rows, -1, -1, -1)
        mask, end_mask = constant.mask[tiles], constant.end_mask[tiles]
        each = torch.arange(len(ends), device=ends.device)[:, None]
        for index, view in enumerate(views):
            last = index == len(views) - 1
            if constant.contexts_inside and index < len(layers):
                slots, vectors = constant.slots[tiles], self._vectors(constant, layers[index], tiles)
                tokens = _replaced(tokens, slots, vectors) if index else _with_contexts(tokens, slots, vectors)
            if index == 0 and constant.first is not None and not last:
                projected = constant.first[tiles].expand(rows, -1, -1, -1)
                query, key, value = view.split(projected, 3)
            else:
                normed = view.norm1(tokens)
                key, value = view.split(view.part(normed, 1, 3), 2)
                (query,) = view.split(view.part(normed[:, each, ends] if last else normed, 0, 1), 1)
            fixed_key, fixed_value = (t[tiles].expand(rows, -1, -1, -1, -1) for t in constant.fixed[index])
            shared = tuple(t[:, None].expand(-1, len(ends), -1, -1, -1) for t in trunk[index])
            keys, values = torch.cat([shared[0], fixed_key, key], -2), torch.cat([shared[1], fixed_value, value], -2)
            attended = _attend(query, keys, values, end_mask if last else mask)
            tokens = view.finish(attended, tokens[:, each, ends] if last else tokens)
        return tokens

    def _vectors(self, constant: Constants, layer: Tensor, tiles: slice) -> Tensor:
        """(R, T, L, D): a layer's context vector for each token of some tiles; anything where there is none."""
        which = constant.slots[tiles].clamp(min=0)
        own = self.classes[tiles].clamp(max=len(self.slots) - 1)
        return layer[:, own, which] if self.class_specific else layer[:, which]


def _with_contexts(tokens: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Tokens (..., D) plus, where a slot is not -1, their context vectors (R, ..., D)."""
    return tokens + torch.where(slots[..., None] >= 0, vectors, 0)


def _replaced(tokens: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Tokens (R, ..., D), where a slot is not -1 their context vectors (R, ..., D)."""
    return torch.where(slots[..., None] >= 0, vectors, tokens)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of (R, T, H, N, d), the mask (T, 1, N, K) the same for all R."""
    rows, tiles = query.shape[:2]
    mask = mask if rows == 1 else mask.expand(rows, *mask.shape).flatten(0, 1)
    query, keys, values = query.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask).unflatten(0, (rows, tiles))
