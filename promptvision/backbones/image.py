"""Prompted image encoding, the plain way: tokens are edited between blocks, and every block is called unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from promptvision.backbones.towers import Edit, ImageTower


def run_blocks(tower: ImageTower, images: Tensor, edits: Mapping[int, Edit], first: int | None = None) -> Tensor:
    """Encode images (B, 3, H, W) into tokens (B, N, D) after the last block, before the final norm.

    `edits[i]` changes the tokens that enter block i; at block 0 before `enter`. `first`: how many of the tokens are
    returned, None for all.
    """
    tokens = tower.embed(images)
    tokens = tower.enter(edits[0](tokens) if 0 in edits else tokens)
    return tower.run(tokens, {index: edit for index, edit in edits.items() if index}, first=first)


def states(tower: ImageTower, images: Tensor, start: int) -> Tensor:
    """Return the tokens (B, N, D) of images (B, 3, H, W) as they enter block `start`."""
    tokens = tower.enter(tower.embed(images))
    for block in list(tower.blocks)[:start]:
        tokens = tower.compute.run(block, block, tokens)
    return tokens


@torch.no_grad()
def entered(tower: ImageTower, images: Tensor, *starts: int) -> Tensor:
    """Return the `states` of images (B, 3, H, W) at each of `starts`, ascending, and their features.

    All in one row for each image, (B, len(starts) N D + E); such rows pass through.
    """
    if images.dim() == 2:
        return images
    seen = list[Tensor]()

    def note(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return tokens

    edits = dict.fromkeys(starts, note)
    features = tower.pool(tower.run(tower.enter(tower.embed(images)), edits, first=tower.pooled))
    return torch.cat([*(tokens.flatten(1) for tokens in seen), features], dim=1)


def layer_features(tower: ImageTower, images: Tensor) -> Tensor:
    """Return the features of images (B, 3, H, W) after every block, each pooled as those after the last, (B, L E).

    Such rows pass through.
    """
    if images.dim() == 2:
        return images
    found = list[Tensor]()

    def note(tokens: Tensor) -> Tensor:
        found.append(tower.pool(tokens[:, : tower.pooled]))
        return tokens

    last = tower.run(tower.enter(tower.embed(images)), dict.fromkeys(range(1, tower.depth), note), first=tower.pooled)
    return torch.cat([*found, tower.pool(last)], dim=1)


def parted(tower: ImageTower, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, starts N, D) and the features (B, E) of rows of `entered`."""
    tokens, features = rows.split([rows.shape[1] - tower.feature_dim, tower.feature_dim], dim=1)
    return tokens.unflatten(1, (-1, tower.width)), features


def below(tower: ImageTower, images: Tensor, start: int) -> Tensor:
    """Return the tokens (B, N, D) that enter block `start`.

    `images`: images (B, 3, H, W), or rows of `entered`.
    """
    if images.dim() == 4:
        return states(tower, images, start)
    return parted(tower, images)[0]


def prompt_edits(tower: ImageTower, prompts: Sequence[Tensor], start: int = 0, keep: bool = True) -> dict[int, Edit]:
    """Return the edits of VPT (arXiv:2203.12119, section 3.2): prompts after the prefix tokens, new at every block.

    `prompts[i]`, (P, D) or (B, P, D), enter block `start` + i: the first are inserted, without position, the others
    replace those before them. After the last they stay among the tokens, or are removed if `keep` is false.
    """
    first, *others = prompts
    at, count = tower.prefix, first.shape[-2]
    edits: dict[int, Edit] = {start: partial(insert, prompts=first, at=at)}
    for index, later in enumerate(others, start + 1):
        edits[index] = partial(replace, prompts=later, at=at)
    end = start + len(prompts)
    return edits if keep or end >= tower.depth else {**edits, end: partial(remove, at=at, count=count)}


def prompted_tokens(
    tower: ImageTower,
    images: Tensor,
    prompts: Tensor,
    deep_prompts: Sequence[Tensor] = (),
    start: int = 0,
    first: int | None = None,
) -> Tensor:
    """Encode images into tokens (B, prefix + P + patches, D) before the final norm, or the `first` of them.

    Prompts as in `prompt_edits`.
    """
    return run_blocks(tower, images, prompt_edits(tower, [prompts, *deep_prompts], start), first)


def insert(tokens: Tensor, prompts: Tensor, at: int) -> Tensor:
    """Insert prompts (P, D) or (B, P, D) before token `at` of (B, N, D)."""
    batch = prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :at], batch, tokens[:, at:]], dim=1)


def replace(tokens: Tensor, prompts: Tensor, at: int) -> Tensor:
    """Replace the P tokens from `at` on by prompts (P, D) or (B, P, D)."""
    return insert(remove(tokens, at, prompts.shape[-2]), prompts, at)


def remove(tokens: Tensor, at: int, count: int) -> Tensor:
    """Remove the `count` tokens from `at` on of (B, N, D)."""
    return torch.cat([tokens[:, :at], tokens[:, at + count :]], dim=1)
