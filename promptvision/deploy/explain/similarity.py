"""Maps of how similar the patches of an image are to the text of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones import CLIP, ImageTower
from promptvision.deploy.explain.attention import Encode, Watch
from promptvision.errors import InputError
from promptvision.method import Method


@torch.no_grad()
def patch_similarity(method: Method, images: Tensor) -> Tensor:
    """Return the cosines of patches and class texts, (B, C, h, w), of images (B, 3, H, W).

    A patch is its token after the last block, through the tower's final norm and its projection into the space of the
    texts. InputError for methods without class texts of their own, and for towers whose patches do not get there.
    """
    name, tower, texts = type(method).__name__, clip_tower(method), class_texts(method)
    with Watch() as watch:
        features, tokens = pooled_tokens(tower, method.features_of, images)
    height, width = watch.grid or (0, 0)
    outputs = tower.project(tower.normalize(tokens)).float()
    if outputs[:, 0].shape != features.shape or not torch.allclose(outputs[:, 0], features.float(), atol=1e-4):
        raise InputError(
            f"{name} makes its features of more than the class token, so patches do not compare with texts"
        )
    patches = F.normalize(outputs[:, outputs.shape[1] - height * width :], dim=-1)
    cosines = patches @ F.normalize(texts.float(), dim=-1).T
    return cosines.transpose(1, 2).unflatten(2, (height, width))


def clip_tower(method: Method) -> ImageTower:
    """Return the image tower of a CLIP of a ViT with a class token, or raise InputError."""
    if not isinstance(method.backbone, CLIP):
        raise InputError(f"{type(method).__name__} has no class texts that patches could be compared with")
    tower = method.backbone.image
    if not tower.depth or not tower.pools_first:
        raise InputError(f"backbone {tower.name} does not project its patches into the space of the texts")
    return tower


def class_texts(method: Method) -> Tensor:
    """Return the text features (C, E) by which a method classifies, or raise InputError."""
    made: Any = getattr(method, "text_features", None)
    texts = made() if callable(made) else getattr(method, "features", None)
    if not isinstance(texts, Tensor) or texts.dim() not in (2, 3) or texts.shape[-2] != len(method.classes):
        raise InputError(f"{type(method).__name__} has no class texts that are the same for all images")
    return texts if texts.dim() == 2 else texts.mean(dim=0)


def pooled_tokens(tower: ImageTower, encode: Encode, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of images (B, E), and the tokens (B, N, D) after the last block, patches last.

    The tokens are those that the tower pooled last, or, if its own code did so unseen, those of its steps.
    """
    seen: list[Tensor] = []
    pool: Callable[[Tensor], Tensor] = tower.pool

    def noted(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return pool(tokens)

    tower.pools_first, tower.pool = False, noted  # type: ignore[method-assign]
    try:
        features = encode(images)
    finally:
        tower.pools_first = True
        del tower.pool
    return features, seen[-1] if seen else tower.run(tower.enter(tower.embed(images)))
