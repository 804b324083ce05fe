"""SSF: scale and shift the output of every operation (Lian et al., NeurIPS 2022, arXiv:2210.08823)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.lora import known_view
from promptvision.errors import InputError
from vpt.parts.attach import attached, own_blocks
from vpt.parts.changes import Scaling, block_views, changed_features
from vpt.parts.folding import all_rows, copied, rows
from vpt.parts.fresh import FINAL_NORMS
from vpt.parts.heads import Head, HeadMethod


class SSF(HeadMethod):
    """A learned scale and shift of each channel after every operation of a ViT, and a linear head.

    The operations are the patch embedding, before class token and positions, in every block both norms, the projections
    to queries, keys and values and from the heads, both layers of the MLP, and the final norm; a norm before the first
    block (CLIP's) stays as it is. Scales start from N(1, `std`), shifts from N(0, `std`): the method does not start as
    the backbone. `std`: standard deviation of scales and shifts at the start; published is 0.02. `head_init`: init of
    the classifier, "small" or "published". Learns `ssf_{scale, shift}_1` (D,) of the final norm, `patch_embed.ssf_*_1`,
    `blocks.i.ssf_*_{1, 2}` of the norms, `blocks.i.attn.ssf_*_1` (3 D,), `attn.ssf_*_2`, `mlp.ssf_*_1` (hidden,),
    `mlp.ssf_*_2`, and the head.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        std: float = 0.02,
        drop_path: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        if std < 0:
            raise InputError(f"std is {std}; a deviation is 0 or more")
        views, width = block_views(backbone, "SSF"), backbone.width
        if getattr(*backbone.stem).out_channels != width:
            raise InputError(
                f"backbone {backbone.name!r} makes its patches from a convolutional network's features, whose "
                "operations SSF does not scale; choose a ViT"
            )
        self.patch_embed = _add(nn.Module(), std, width)
        self.blocks = nn.ModuleList(_add(nn.Module(), std, width, width) for _ in views)
        for view, block in zip(views, self.blocks, strict=True):
            block.attn = _add(nn.Module(), std, 3 * width, width)
            block.mlp = _add(nn.Module(), std, view.up.out_features, width)
        _add(self, std, width)

    def features(self, images: Tensor) -> Tensor:
        def pixels(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return _scaling(self.patch_embed, 1)(output, output.movedim(1, -1)).movedim(-1, 1)

        def last(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return _scaling(self, 1)(output, output)

        with attached([(getattr(*self.backbone.stem), pixels), (_final_norm(self.backbone), last)]):
            return changed_features(self.backbone, images, [_scalings(block) for block in self.blocks])

    @torch.no_grad()
    def merged(self) -> ImageTower:
        tower = copied(self.backbone)
        places = {getattr(*tower.stem): _scaling(self.patch_embed, 1), _final_norm(tower): _scaling(self, 1)}
        for block, learned in zip(own_blocks(tower), self.blocks, strict=True):
            view, changes = known_view(block), _scalings(learned)
            places |= {view.norm1: changes.pop("norm1"), view.norm2: changes.pop("norm2")}  # type: ignore[dict-item]
            weights = rows(block, biases=True)
            for name, change in changes.items():
                weights[name].scale(change.scale, change.shift)
        for layer, change in places.items():
            all_rows(layer, biases=True).scale(change.scale, change.shift)
        return tower


def _add(module: nn.Module, std: float, *sizes: int) -> nn.Module:
    """Add `ssf_scale_i` and `ssf_shift_i` of these sizes, i from 1, to a module, and return it."""
    for index, size in enumerate(sizes, 1):
        for name, mean in (("scale", 1.0), ("shift", 0.0)):
            module.register_parameter(f"ssf_{name}_{index}", nn.Parameter(torch.empty(size).normal_(mean, std)))
    return module


def _scaling(module: Any, index: int) -> Scaling:
    """Return the change by the scale and shift `index` of a module."""
    return Scaling(getattr(module, f"ssf_scale_{index}"), getattr(module, f"ssf_shift_{index}"))


def _scalings(block: Any) -> dict[str, Scaling]:
    """Return the changes of a block by target."""
    whole = _scaling(block.attn, 1)
    parts = zip(whole.scale.chunk(3), whole.shift.chunk(3), strict=True)  # type: ignore[union-attr]
    return {
        "norm1": _scaling(block, 1),
        "norm2": _scaling(block, 2),
        **{name: Scaling(*part) for name, part in zip("qkv", parts, strict=True)},
        "o": _scaling(block.attn, 2),
        "fc1": _scaling(block.mlp, 1),
        "fc2": _scaling(block.mlp, 2),
    }


def _final_norm(tower: ImageTower) -> nn.Module:
    """Return the norm between the last block and the feature."""
    modules = dict(getattr(tower, "model", tower).named_modules())
    return next(modules[name] for name in FINAL_NORMS if not isinstance(modules.get(name, nn.Identity()), nn.Identity))
