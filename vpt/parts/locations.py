"""Prompts other than tokens before the patches, and ways to pool the tokens (VPT, arXiv:2203.12119, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.image import Edit, prompt_edits, remove, replace
from vpt.parts.prompted_blocks import PromptedBlocks


def normalized(pixels: Tensor, tower: ImageTower) -> Tensor:
    """Normalise pixels in [0, 1], (..., 3, H, W), as the tower's images are."""
    channels = zip(pixels.split(1, dim=-3), tower.mean, tower.std, strict=True)
    return torch.cat([(channel - mean) / std for channel, mean, std in channels], dim=-3)


def location_edits(
    tower: ImageTower, prompts: Sequence[Tensor], where: PromptedBlocks, *, add: bool, delete_patches: bool
) -> Mapping[int, Edit]:
    """Return the edits between blocks that bring in the prompts of each prompted block, (P, D) or (B, P, D).

    `add`: prompts (N, D), or (1, D) for all tokens, are added to the tokens, class token included. `delete_patches`:
    the first prompts do not push the patches back but replace the first P, as in the official REVERSE_DEEP.
    """

    def added(tokens: Tensor, prompts: Tensor) -> Tensor:
        return tokens + prompts.to(tokens.dtype)

    if add:
        return {block: partial(added, prompts=own) for block, own in enumerate(prompts, where.start)}
    edits = prompt_edits(tower, prompts, where.start, where.keep)
    if delete_patches:
        edits[where.start] = partial(replace, prompts=prompts[0], at=tower.prefix)
    return edits


def pooled(tower: ImageTower, tokens: Tensor, pool: str, count: int) -> Tensor:
    """Pool tokens (B, N, D) of the last block, `count` of them prompts, into features (B, E).

    `pool`: "backbone" is the tower's own, without the prompts; "cls" the first token; "image", "prompt" and
    "image_prompt" the mean of patches, of prompts, of both, all after the final norm.
    """
    first = tower.prefix
    if pool == "backbone":
        return tower.pool(remove(tokens, first, count))
    part = {
        "cls": slice(0, 1),
        "image": slice(first + count, None),
        "prompt": slice(first, first + count),
        "image_prompt": slice(first, None),
    }[pool]
    return tower.project(tower.normalize(tokens)[:, part].mean(dim=1))
