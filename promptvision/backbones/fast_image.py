"""Prompted image encoding in the exact fast way: only what the feature depends on is computed.

Prompts that the next block replaces only need keys and values, computed once for the whole batch if they are the same
for every image. The last block only computes the pooled token, whose one query and one average absorb the weights of
keys and values. Equal to the plain way up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.fast_text import mixed
from promptvision.backbones.image import insert, prompt_edits, remove, replace, run_blocks, states
from promptvision.backbones.prefix import attend
from promptvision.backbones.towers import ImageTower


def prompted_features(
    tower: ImageTower,
    images: Tensor,
    prompts: Tensor,
    deep_prompts: Sequence[Tensor] = (),
    *,
    start: int = 0,
    keep: bool = True,
) -> Tensor:
    """Encode images (B, 3, H, W) into features (B, E), without the prompts' own outputs in the pool.

    `prompts` (P, D) or (B, P, D) enter block `start`, `deep_prompts[i]` replace them at block `start` + 1 + i; the last
    ones stay among the tokens, or are removed if `keep` is false (`prompt_edits`). `tower.compute` decides the way; the
    fast one must know every block from `start` on.
    """
    layers = [prompts, *deep_prompts]
    views = known_views(tower, start)
    if views is None:
        tokens = run_blocks(tower, images, prompt_edits(tower, layers, start, keep), tower.pooled)
        left = keep or start + len(layers) >= tower.depth
        return tower.pool(remove(tokens, tower.prefix, prompts.shape[-2]) if left else tokens)
    tokens = states(tower, images, start)
    layers = [(layer if layer.dim() == 3 else layer[None]).to(tokens.dtype) for layer in layers]
    layers = [tower.enter(layers[0]), *layers[1:]] if start == 0 else layers
    return tower.pool(_through(tower, views, tokens, layers, keep)[0])


def prompted_outputs(
    tower: ImageTower, tokens: Tensor, layers: Sequence[Tensor | None], start: int, share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Run the blocks from `start` on and return tokens and prompts (B, P, D) after the last one, before any norm.

    `tokens` (B, N, D) enter block `start` (`states`); if the feature depends on the first alone, no other is
    returned. `layers[i]` (P, D) enter at block `start` + i: the first after the prefix tokens, the others take the
    places of those before them, of which 1 - `share` stays. Where `layers` has None, or ends, prompts pass on.
    """
    views = known_views(tower, start)
    if views is not None:
        own = [None if layer is None else layer[None].to(tokens.dtype) for layer in layers]
        return _through(tower, views, tokens, own, keep=True, share=share, outputs=True)
    at, count = tower.prefix, len(layers[0])  # type: ignore[arg-type]
    for index, block in enumerate(list(tower.blocks)[start:]):
        layer = layers[index] if index < len(layers) else None
        if index == 0:
            tokens = insert(tokens, layer, at)  # type: ignore[arg-type]
        elif layer is not None:
            passed = tokens[:, at : at + count]
            tokens = replace(tokens, mixed(layer.to(tokens.dtype).expand_as(passed), passed, share), at)
        tokens = tower.compute.run(block, block, tokens)
    return remove(tokens, at, count)[:, : tower.pooled], tokens[:, at : at + count]


def _through(
    tower: ImageTower,
    views: Sequence[BlockView],
    tokens: Tensor,
    layers: Sequence[Tensor | None],
    keep: bool,
    share: float = 1.0,
    outputs: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run blocks on tokens (B, N, D); `layers[i]`, (B or 1, P, D), are the prompts at the entrance of block i.

    `outputs`: the prompts' own outputs of the last block are wanted.
    """
    given = [*layers, *[None] * (len(views) - len(layers))]
    prompts = tokens[:, :0]
    for index, view in enumerate(views):
        layer, final = given[index], index == len(views) - 1
        if layer is not None:
            prompts = mixed(layer, prompts, share) if index else layer
        replaced = not final and given[index + 1] is not None and share == 1
        if final and tower.pools_first:
            step: Callable[..., tuple[Tensor, Tensor]] = _first_and_prompts if outputs else _first_only
        else:
            step = _all_tokens if keep and not replaced and (outputs or not final) else _replaced
        tokens, prompts = tower.compute.run(partial(step, view), view.block, tokens, prompts)
    return tokens, prompts


def known_views(tower: ImageTower, start: int = 0) -> list[BlockView] | None:
    """Return views of the blocks from `start` on for the fast way, None for the plain way."""
    problem = f"backbone {tower.name!r} has blocks that the fast way does not know"
    return tower.compute.views(lambda: tower.views(start), problem)


def _first_only(view: BlockView, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the block's output at the first token, (B, 1, D), and no prompts."""
    return view.first(tokens, others=prompts), prompts[:, :0]


def _first_and_prompts(view: BlockView, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the block's outputs at the first token and at the prompts."""
    entering = torch.cat([tokens[:, :1], prompts.expand(tokens.shape[0], -1, -1), tokens[:, 1:]], dim=1)
    left = view.first(entering, 1 + prompts.shape[1])
    return left[:, :1], left[:, 1:]


def _replaced(view: BlockView, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the block's outputs at the tokens and no prompts: others replace them."""
    keys, values = view.part(view.norm1(prompts), 1, 3).chunk(2, dim=-1)
    return attend(view, tokens, keys, values), prompts[:, :0]


def _all_tokens(view: BlockView, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the block's outputs at the tokens and at the prompts, which the next block reads."""
    own, added = view.part(view.norm1(tokens), 0, 3), view.part(view.norm1(prompts), 0, 3)
    query, key, value = view.split(torch.cat([own, added.expand(tokens.shape[0], -1, -1)], dim=1), 3)
    entering = torch.cat([tokens, prompts.expand(tokens.shape[0], -1, -1)], dim=1)
    left = view.finish(F.scaled_dot_product_attention(query, key, value), entering)
    return left[:, : tokens.shape[1]], left[:, tokens.shape[1] :]
