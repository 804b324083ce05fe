"""Text encoding in the exact fast way: prompts of many classes share what they have in common.

A causal tower's output at a token depends only on earlier tokens. So nothing after the last end token is computed; the
common beginning of all prompts runs once, and each class's own tokens attend to it; the own tokens of many classes are
packed into tiles with a mask; the last block runs at the end tokens only; and tokens before any context vector (start
token, class names in front) run once per set of weights. Equal to the plain way up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.classes.room import Room
from promptvision.backbones.classes.shares import gathered, share
from promptvision.backbones.fast_text_cache import Cache, Constants, Entry, Kept, Trunk, join, run
from promptvision.backbones.packing import PackedLayout
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import TextTower

T = TypeVar("T")
Layers = Sequence[Tensor | None]
"""Context vectors of consecutive blocks; None where those that entered the block before pass on."""


def known_views(tower: TextTower, blocks_learn: bool = False) -> list[BlockView] | None:
    """Return views of all blocks of a frozen causal tower, or None if any part of it is unknown.

    `blocks_learn`: all but the embeddings may be learned.
    """
    if not isinstance(tower, OpenClipText) or not tower.causal:
        return None
    embeddings = tower.token_embedding.weight, tower.positional_embedding
    frozen = tower.frozen or (blocks_learn and not any(each.requires_grad for each in embeddings))
    return tower.views() if frozen else None


class PackedPrompts(PackedLayout):
    """Prompts of C classes in their packed layout, ready to be encoded."""

    share: float = 1.0
    """Share of a later block's vectors in what enters it; the rest is what the block before has made of the others."""

    def __init__(self, ids: Tensor, slots: Tensor, eot: Tensor, class_specific: bool, changing: bool = False):
        super().__init__(ids, slots, eot, class_specific, changing)
        self.kept, self.room = Kept(), Room()

    def forward(self, tower: TextTower, views: Sequence[BlockView], layers: Layers, chunk: int | str = 0) -> Tensor:
        """Encode contexts (R, M, D), or (R, C, M, D) if class-specific, into features (R, C, E).

        `layers[0]` are the contexts that enter the first of `views`, `layers[i]` those that replace them, or the last
        of them, at view i, where they pass on if it is None. `chunk`:
        about how many classes are computed at once, 0 for all, "auto" for as many as fit into the free memory; each
        chunk makes its constants, and backward computes it again.
        """
        assert isinstance(tower, OpenClipText)
        layers = each_layer(layers, lambda layer: layer.to(tower.positional_embedding.dtype))
        entry = self.kept.get(tower, ("trunk",), lambda: Trunk.of(self, tower))
        frozen = self._of_blocks(tower, ("frozen",), lambda: run(views, entry.frozen, entry.frozen_mask))

        def ends(tiles: slice, layers: Layers, trunk: Cache) -> Tensor:
            with torch.no_grad():
                constant = Constants.of(Entry.of(self, tower, tiles), views, frozen)
            return self._ends(views, constant, trunk, layers)

        def some(count: int) -> Tensor:
            leaves = each_layer(layers, lambda layer: layer.detach().requires_grad_())
            return ends(slice(0, count), leaves, self._trunk(views, entry, frozen, leaves))

        start, stop = share(self.plan.tiles)
        size = max(1, self.plan.tiles * int(chunk) // len(self.slots)) if chunk and chunk != "auto" else stop - start
        if chunk == "auto":
            size = self.room.pieces((rows_of(layers),), tower, some, self.plan.tiles)
        trunk = self._trunk(views, entry, frozen, layers)
        if size >= stop - start:
            found = self._ends(views, self._constants(tower, views, frozen, slice(start, stop)), trunk, layers)
        else:
            chunks = (slice(first, min(first + size, stop)) for first in range(start, stop, size))
            found = torch.cat([checkpoint(ends, tiles, layers, trunk, use_reentrant=False) for tiles in chunks], dim=1)
        return tower.project(gathered(found, start, self.plan.tiles).flatten(1, 2)[:, self.order])

    def _constants(self, tower: OpenClipText, views: Sequence[BlockView], frozen: Cache, tiles: slice) -> Constants:
        """Return the constants of some tiles, which are kept."""
        name = tiles.start, tiles.stop
        entry = self.kept.get(tower, ("entry", *name), lambda: Entry.of(self, tower, tiles))
        return self._of_blocks(tower, ("constants", *name), lambda: Constants.of(entry, views, frozen))

    def _of_blocks(self, tower: OpenClipText, name: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return constants that depend on the blocks, which are kept unless the tower's weights are learned."""
        return make() if self.changing else self.kept.get(tower, name, make)

    def _trunk(self, views: Sequence[BlockView], entry: Trunk, frozen: Cache, layers: Layers) -> Cache:
        """Return keys and values (R, H, trunk, D / H) of the common beginning of all prompts, at every block."""
        rows = rows_of(layers)
        cache = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in frozen]
        if self.plan.frozen == self.plan.trunk:
            return cache
        tokens = entry.live
        for index, view in enumerate(views):
            layer = layers[index] if index < len(layers) else None
            if layer is not None:
                places = entry.live_places.after(skipped(layers, layer))
                tokens = self._entered(tokens, places.here, layer[:, places.which], index)
            query, key, value = view.split(view.part(view.norm1(tokens), 0, 3), 3)
            keys, values = join(cache[index], (key, value))
            cache[index] = keys, values
            if index < len(views) - 1:
                # vmap hides autocast
                mask, keys, values = (each.to(query.dtype) for each in (entry.live_mask, keys, values))
                attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
                tokens = view.finish(attended, tokens)
        return cache

    def _ends(self, views: Sequence[BlockView], constant: Constants, trunk: Cache, layers: Layers) -> Tensor:
        """Return the end tokens (R, T, E, D) of some tiles after the last block."""
        rows, entry = rows_of(layers), constant.entry
        tokens, ends, each = entry.tokens.expand(rows, -1, -1, -1), entry.ends, entry.rows
        for index, view in enumerate(views):
            last = index == len(views) - 1
            layer = layers[index] if index < len(layers) else None
            if entry.places and layer is not None:
                places, own = entry.places.after(skipped(layers, layer)), entry.classes
                vectors = layer[:, own, places.which] if self.class_specific else layer[:, places.which]
                tokens = self._entered(tokens, places.here, vectors, index)
            if index == 0 and constant.first is not None and not last:
                projected = constant.first.expand(rows, -1, -1, -1)
                query, key, value = view.split(projected, 3)
            else:
                normed = view.norm1(tokens)
                key, value = view.split(view.part(normed, 1, 3), 2)
                (query,) = view.split(view.part(normed[:, each, ends] if last else normed, 0, 1), 1)
            groups = [[part[:, None].expand(-1, len(ends), -1, -1, -1) for part in trunk[index]], [key, value]]
            if constant.fixed:
                groups.insert(1, [part.expand(rows, -1, -1, -1, -1) for part in constant.fixed[index]])
            keys, values = join(*groups)
            attended = _attend(query, keys, values, entry.end_mask if last else entry.mask)
            tokens = view.finish(attended, tokens[:, each, ends] if last else tokens)
        return tokens

    def _entered(self, tokens: Tensor, here: Tensor, vectors: Tensor, index: int) -> Tensor:
        """Put vectors (R, ..., D) that enter view `index` into tokens (..., D) that are `here`.

        The first are added to what `entering` has put there.
        """
        if index == 0:
            return torch.where(here, tokens + vectors, tokens)
        return torch.where(here, mixed(vectors, tokens, self.share), tokens)


def skipped(layers: Layers, layer: Tensor) -> int:
    """Return how many of the first layer's contexts a layer leaves as they are: the first, where it has fewer."""
    first = layers[0]
    return 0 if first is None else first.shape[-2] - layer.shape[-2]


def each_layer(layers: Layers, change: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
    """Apply a function to those layers that have vectors."""
    return [None if layer is None else change(layer) for layer in layers]


def rows_of(layers: Layers) -> int:
    """Return R, the number of rows of the first layer."""
    assert layers[0] is not None
    return len(layers[0])


def mixed(vectors: Tensor, tokens: Tensor, share: float) -> Tensor:
    """Return the vectors that enter a block where `share` of them is learned and the rest passes on."""
    return vectors if share == 1 else share * vectors + (1 - share) * tokens


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend from queries (R, T, H, N, d) with a mask (T, 1, N, K) that all R share."""
    rows, tiles = query.shape[:2]
    mask = mask if rows == 1 else mask.expand(rows, *mask.shape).flatten(0, 1)
    query, keys, values = (each.flatten(0, 1).to(query.dtype) for each in (query, keys, values))
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask.to(query.dtype)).unflatten(
        0, (rows, tiles)
    )
