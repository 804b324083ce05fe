"""Text encoding in the exact fast way: prompts of many classes share what they have in common.

A causal tower's output at a token depends only on earlier tokens. So nothing after the last end token is computed; the
common beginning of all prompts runs once, and each class's own tokens attend to it; the own tokens of many classes are
packed into tiles with a mask; the last block runs at the end tokens only; and tokens before any context vector (start
token, class names in front) run once per set of weights. Equal to the plain way up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.fast_text_cache import Cache, Constants, Entry, join
from promptvision.backbones.packing import PackedLayout
from promptvision.backbones.pinning import Weights
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import TextTower


def known_views(tower: TextTower) -> list[BlockView] | None:
    """Return views of all blocks of a frozen causal tower, or None if any part of it is unknown."""
    known = isinstance(tower, OpenClipText) and tower.causal and tower.frozen
    return tower.views() if known else None


class PackedPrompts(PackedLayout):
    """Prompts of C classes in their packed layout, ready to be encoded."""

    _weights: Weights | None = None
    """The weights that `_kept` was computed from, once per precision and place."""
    _kept: dict[tuple[object, ...], Constants | Entry]

    def forward(self, tower: TextTower, views: Sequence[BlockView], layers: Sequence[Tensor], chunk: int = 0) -> Tensor:
        """Encode contexts (R, M, D), or (R, C, M, D) if class-specific, into features (R, C, E).

        `layers[0]` are the contexts that enter the tower, `layers[i]` those that replace them at block i. `chunk`:
        about how many classes are computed at once, 0 for all; backward computes each chunk again.
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
        """Return the cached parts, computed again if a weight, its place or its precision has changed."""
        weights, position = tower.weights, tower.positional_embedding
        if self._weights is not weights:
            if self._weights != weights:
                self._kept = {}
            self._weights = weights
        kind = position.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else position.dtype
        place = (dtype, position.dtype, position.device)
        if place not in self._kept:
            with torch.no_grad():
                entry = Entry.of(self, position, dtype)
                self._kept[place] = entry if self.changing else Constants.of(entry, views)
        kept = self._kept[place]
        return Constants.of(kept, views) if isinstance(kept, Entry) else kept

    def _trunk(self, views: Sequence[BlockView], constant: Constants, layers: Sequence[Tensor]) -> Cache:
        """Return keys and values (R, H, trunk, D / H) of the common beginning of all prompts, at every block."""
        rows, entry = len(layers[0]), constant.entry
        cache = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in constant.frozen]
        if self.plan.frozen == self.plan.trunk:
            return cache
        tokens = entry.live
        for index, view in enumerate(views):
            if index < len(layers):
                vectors = layers[index][:, entry.live_places.which]
                tokens = _entered(tokens, entry.live_places.here, vectors, first=index == 0)
            query, key, value = view.split(view.part(view.norm1(tokens), 0, 3), 3)
            keys, values = join(cache[index], (key, value))
            cache[index] = keys, values
            if index < len(views) - 1:
                mask, keys, values = (
                    each.to(query.dtype) for each in (entry.live_mask, keys, values)
                )  # vmap hides autocast
                attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
                tokens = view.finish(attended, tokens)
        return cache

    def _ends(
        self, views: Sequence[BlockView], constant: Constants, trunk: Cache, layers: Sequence[Tensor], tiles: slice
    ) -> Tensor:
        """Return the end tokens (R, T, E, D) of some tiles after the last block."""
        rows, ends, entry = len(layers[0]), self.ends[tiles], constant.entry
        tokens = entry.tokens[tiles].expand(rows, -1, -1, -1)
        mask, end_mask, each = entry.mask[tiles], entry.end_mask[tiles], entry.rows[: len(ends)]
        for index, view in enumerate(views):
            last = index == len(views) - 1
            if entry.places and index < len(layers):
                which, own = entry.places.which[tiles], entry.classes[tiles]
                vectors = layers[index][:, own, which] if self.class_specific else layers[index][:, which]
                tokens = _entered(tokens, entry.places.here[tiles], vectors, first=index == 0)
            if index == 0 and constant.first is not None and not last:
                projected = constant.first[tiles].expand(rows, -1, -1, -1)
                query, key, value = view.split(projected, 3)
            else:
                normed = view.norm1(tokens)
                key, value = view.split(view.part(normed, 1, 3), 2)
                (query,) = view.split(view.part(normed[:, each, ends] if last else normed, 0, 1), 1)
            groups = [[part[:, None].expand(-1, len(ends), -1, -1, -1) for part in trunk[index]], [key, value]]
            if constant.fixed:
                groups.insert(1, [part[tiles].expand(rows, -1, -1, -1, -1) for part in constant.fixed[index]])
            keys, values = join(*groups)
            attended = _attend(query, keys, values, end_mask if last else mask)
            tokens = view.finish(attended, tokens[:, each, ends] if last else tokens)
        return tokens


def _entered(tokens: Tensor, here: Tensor, vectors: Tensor, first: bool) -> Tensor:
    """Put context vectors (R, ..., D) into tokens (..., D) that are `here`; the first are added to positions."""
    return torch.where(here, tokens + vectors if first else vectors, tokens)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend from queries (R, T, H, N, d) with a mask (T, 1, N, K) that all R share."""
    rows, tiles = query.shape[:2]
    mask = mask if rows == 1 else mask.expand(rows, *mask.shape).flatten(0, 1)
    query, keys, values = (each.flatten(0, 1).to(query.dtype) for each in (query, keys, values))
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask.to(query.dtype)).unflatten(
        0, (rows, tiles)
    )
