"""A ViT learned from the labels of scenes, as the supervised backbones of VPT (arXiv:2203.12119)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import torch as safetensors
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pretraining.recipe import Recipe
from pretraining.towers import encode_vit
from promptvision.atomic import write_atomically, write_json
from promptvision.data.world.attributes import ARRANGEMENTS, COLOURS, LANDS, STYLES, SURFACES, TEXTURES, VIEWS
from promptvision.data.world.render import render
from promptvision.data.world.scene import USUAL, Scenes, sample
from promptvision.data.world.shapes import SHAPES

FACETS = {
    "shape": len(SHAPES), "colour": len(COLOURS), "texture": len(TEXTURES), "ground": len(COLOURS),
    "pattern": len(SURFACES), "land": len(LANDS), "arrangement": len(ARRANGEMENTS), "view": len(VIEWS),
    "style": len(STYLES),
}  # fmt: skip
"""Facet -> number of its columns among the labels; the first holds any number of ones, the others hold one."""
OF_THINGS, OF_GROUNDS = ("shape", "colour", "texture", "arrangement"), ("ground", "pattern")


def labels(scenes: Scenes) -> Tensor:
    """Return which shapes each scene has, and its other facets, (n, K) of 0 and 1; all 0 where a facet is not seen."""
    things, land = (scenes.view == VIEWS.index(name) for name in ("things", "land"))
    seen = {**dict.fromkeys(OF_THINGS, things), **dict.fromkeys(OF_GROUNDS, ~land), "land": land}
    parts = []
    for facet, count in FACETS.items():
        values = torch.as_tensor(getattr(scenes, facet))
        hot = F.one_hot(values[:, :2] if facet == "shape" else values.view(len(scenes), -1)[:, :1], count)
        if facet == "shape":
            hot = hot * torch.as_tensor(scenes.present[:, :2])[..., None]
        parts.append(hot.amax(1) * torch.as_tensor(seen.get(facet, np.ones(len(scenes), bool)))[:, None])
    return torch.cat(parts, 1).float()


def losses(logits: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropies of the shapes, summed, plus the cross-entropy of each other facet."""
    sizes = list(FACETS.values())
    (shape, *rest), (present, *one_hot) = logits.split(sizes, 1), target.split(sizes, 1)
    several = F.binary_cross_entropy_with_logits(shape, present, reduction="none").sum(1).mean()
    return several + sum(F.cross_entropy(given, wanted) for given, wanted in zip(rest, one_hot, strict=True))


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer, without those of the head."""
    sizes = {"img_size": recipe.side, "patch_size": recipe.patch, "embed_dim": recipe.width, "depth": recipe.layers}
    return {**sizes, "num_heads": recipe.width // recipe.head_width}


class Supervised:
    """Labels of several objects and of the whole scene, learned by one linear head on the class token."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = VisionTransformer(**describe(recipe), num_classes=sum(FACETS.values()))

    def loss(self, rng: np.random.Generator, scenes: Scenes) -> Tensor:
        """Return the loss of a batch of scenes."""
        return losses(self.model.head(encode_vit(self.model, render(scenes))), labels(scenes))

    @torch.no_grad()
    def quality(self) -> dict[str, float]:
        """Return in percent how often the most probable value of each facet is a true one, where it is seen."""
        scenes = sample(np.random.default_rng(99), 2000, USUAL)
        logits = torch.cat([self.model.head(encode_vit(self.model, part)) for part in render(scenes).split(256)])
        sizes = list(FACETS.values())
        parts = zip(FACETS, logits.split(sizes, 1), labels(scenes).split(sizes, 1), strict=True)
        return {
            facet: round(
                100 * wanted.gather(1, given.argmax(1, keepdim=True)).sum().item() / wanted.amax(1).sum().item(), 1
            )
            for facet, given, wanted in parts
        }

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Write timm's tensors in half precision without the head, and the constructor's arguments beside them."""
        tensors = {name: p.half() for name, p in self.model.state_dict().items() if not name.startswith("head.")}
        given = ", ".join(f"{name}={value}" for name, value in describe(self.recipe).items())
        write_atomically(path, safetensors.save(tensors, facts))
        write_json(path.with_suffix(".json"), {"timm_constructor": f"VisionTransformer({given}, num_classes=0)"})
