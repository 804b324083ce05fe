"""Changes of the outputs of layers in every block, by which LoRA, FacT, SSF and DiffFit adapt a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.blocks import BlockView
from promptvision.backbones.fast_image import known_views
from promptvision.backbones.lora import Changes, changed, changed_image, known_view
from promptvision.errors import InputError
from vpt.parts.attach import Hook, attached, mlp_blocks, own_blocks
from vpt.parts.folding import linears

NORMS = ("norm1", "norm2")
"""Targets that are norms, called so in timm's blocks."""


@dataclass(frozen=True)
class Scaling:
    """The change y -> scale y + shift of each channel of a layer's output (..., D)."""

    scale: Tensor
    shift: Tensor | None = None
    draws: bool = False

    def __call__(self, inputs: Tensor, output: Tensor) -> Tensor:
        changed = output * self.scale if self.shift is None else torch.addcmul(self.shift, output, self.scale)
        return changed.to(output.dtype)


@dataclass(frozen=True)
class FactorChange:
    """The change of a linear layer's output: y + scale V M U x.

    `down` U (r, D), `core` M (b r, a r), `up` V (D, r): the input is cut into `a` parts as wide as a token, which U
    projects one by one, and V makes each of the output's `b` parts. `dropout`: dropout of what V projects.
    """

    down: Tensor
    core: Tensor
    up: Tensor
    scale: float
    dropout: float = 0.0

    @property
    def draws(self) -> bool:
        return self.dropout > 0

    def __call__(self, inputs: Tensor, output: Tensor) -> Tensor:
        width, rank = self.up.shape
        inner = F.linear(F.linear(inputs.unflatten(-1, (-1, width)), self.down).flatten(-2), self.core)
        inner = F.dropout(inner, self.dropout, self.draws).unflatten(-1, (-1, rank))
        return output + self.scale * F.linear(inner, self.up).flatten(-2)


def changed_features(tower: ImageTower, images: Tensor, blocks: Sequence[Changes]) -> Tensor:
    """Encode images (B, 3, H, W) into features (B, E), with the changes `blocks[i]` in block i."""
    # blocks around torch's MultiheadAttention call no linear layers that could be hooked: they are taken apart
    apart = any(isinstance(module, nn.MultiheadAttention) for module in tower.modules())
    if apart or (tower.pools_first and known_views(tower)):
        return changed_image(tower, images, dict(enumerate(blocks)))
    called: set[nn.Module] = set()
    hooks = [
        (layer, _hook(changes, names, called))
        for block, changes in zip(mlp_blocks(tower), blocks, strict=True)
        for layer, names in [
            *linears(block),
            *((block.get_submodule(name), (name,)) for name in NORMS if name in changes),
        ]
        if any(name in changes for name in names)
    ]
    with attached(hooks):
        features = tower(images)
    for name, layer in tower.named_modules():
        if layer in {hooked for hooked, _ in hooks} - called:
            raise InputError(
                f"backbone {tower.name!r} reads the weight of {name.removeprefix('model.')} without "
                "calling it, so LoRA cannot change it; leave its targets out"
            )
    return features


def _hook(changes: Changes, names: tuple[str, ...], called: set[nn.Module]) -> Hook:
    """Return a hook that changes the output of a layer, which is made of the parts `names`."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        called.add(module)
        parts = zip(names, output.chunk(len(names), dim=-1), strict=True)
        return torch.cat([changed(changes, name, args[0], part) for name, part in parts], dim=-1)

    return hook


def block_views(tower: ImageTower, method: str) -> list[BlockView]:
    """Return views of all blocks; raise InputError for a tower without blocks, or with any that are not known."""
    if not tower.depth:
        raise InputError(f"backbone {tower.name!r} has no blocks that {method} knows; choose a ViT")
    return [known_view(block, tower.name, method) for block in own_blocks(tower)]
