"""Features of places in an image, comparable with CLIP's text features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.errors import InputError


def local_features(tower: ImageTower, images: Tensor) -> Tensor:
    """Encode images (B, 3, H, W) into (B, n, E), not normalised, one feature for each of n patches."""
    return pooled_and_local(tower, images)[:, 1:]


def pooled_and_local(tower: ImageTower, images: Tensor) -> Tensor:
    """Encode images (B, 3, H, W) into (B, 1 + n, E), not normalised: the feature of the image, then of n patches.

    In a ViT these are the tokens after its final norm and projection; in CLIP's ResNets the output of the attention
    pool with each place as the query as well as their mean (PLOT, arXiv:2210.01253, section 3.2).
    """
    check_local(tower)
    if not tower.depth:
        visual: Any = tower.model
        found = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            found = layer(found)
        return attend_everywhere(visual.attnpool, found)
    return tower.project(tower.normalize(tower.run(tower.enter(tower.embed(images)))))


def check_local(tower: ImageTower) -> None:
    """Raise InputError for a tower whose patches have no features in the space of the texts."""
    model = getattr(tower, "model", None)
    known = isinstance(model, VisionTransformer) and model.attn_pool is None and not model.final_ln_after_pool
    if not known and not isinstance(model, ModifiedResNet):
        raise InputError(
            f"the image tower of {tower.name!r} has no features of places that can be compared with texts; take one "
            "of OpenAI's CLIPs, such as ViT-B-16 or RN50"
        )


def attend_everywhere(pool: AttentionPool2d, found: Tensor) -> Tensor:
    """Return the output of CLIP's attention pool of (B, D, h, w) for every query, (B, 1 + h w, E), its own first."""
    places = found.flatten(2).transpose(1, 2)
    tokens = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)
    parts = (part(tokens) for part in (pool.q_proj, pool.k_proj, pool.v_proj))
    query, key, value = (part.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for part in parts)
    return pool.c_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
