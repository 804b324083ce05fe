"""What prompts may be other than tokens in front of the patches, and what may be pooled (VPT, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.image import Edit, prompt_edits, remove, replace
from vpt.parts.prompted_blocks import Schedule


def init_bound(patch: int, dim: int) -> float:
    """Half-width of the uniform prompt init: Xavier over one RGB patch and one token (section 3.2 and appendix A)."""
    return math.sqrt(6 / (3 * patch**2 + dim))


def token_count(tower: ImageTower) -> int:
    """How many tokens an image of the tower's size has, the class token and its like included."""
    weight = next(tower.parameters())
    with torch.no_grad():
        return tower.embed(weight.new_zeros(1, 3, tower.image_size, tower.image_size)).shape[1]


def strip_tokens(tower: ImageTower, strip: Tensor, normalize: bool) -> Tensor:
    """Pixels (1, 3, patch, P patch) to prompts (P, D), through the tower's frozen patch embedding.

    `normalize`: the strip is in [0, 1] and is normalised as images are.
    """
    return tower.patchify(normalized(strip, tower) if normalize else strip)[0]


def normalized(pixels: Tensor, tower: ImageTower) -> Tensor:
    """Pixels in [0, 1], (..., 3, H, W), as the tower takes its images."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (tower.mean, tower.std))
    return (pixels - mean) / std


def location_edits(
    tower: ImageTower, prompts: Sequence[Tensor], plan: Schedule, *, add: bool, delete_patches: bool
) -> Mapping[int, Edit]:
    """The edits between blocks for the prompts of `plan`, each (P, D) or (B, P, D).

    `add`: prompts (N, D), or (1, D) for all tokens, are added to the tokens, class token included. `delete_patches`:
    the first prompts do not push the patches back but take the place of the first P, as in the official REVERSE_DEEP.
    """
    if add:
        return {block: partial(_added, prompts=own) for block, own in enumerate(prompts, plan.start)}
    edits = prompt_edits(tower, prompts, plan.start, plan.keep)
    if delete_patches:
        edits[plan.start] = partial(replace, prompts=prompts[0], at=tower.prefix)
    return edits


def _added(tokens: Tensor, prompts: Tensor) -> Tensor:
    return tokens + prompts.to(tokens.dtype)


def pooled(tower: ImageTower, tokens: Tensor, pool: str, count: int) -> Tensor:
    """Tokens (B, N, D) after the last block, `count` of them prompts, to features (B, E).

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
