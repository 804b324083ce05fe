"""LoRA: low-rank changes of attention and MLP weights (Hu et al., ICLR 2022, arXiv:2106.09685).

The module is our own because peft rewrites the backbone (it wraps layers and renames their tensors for good), takes a
fused qkv as one matrix, and merges the weights of torch's MultiheadAttention in every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.blocks import BlockView, view_block
from promptvision.errors import InputError, unknown
from vpt.attach import Hook, attached, mlp_blocks
from vpt.heads import HeadMethod

TARGETS = ("q", "k", "v", "o", "fc1", "fc2")
LINEARS = {
    "attn.qkv": ("q", "k", "v"),
    "attn.q_proj": ("q",),
    "attn.k_proj": ("k",),
    "attn.v_proj": ("v",),
    "attn.proj": ("o",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}
"""Linear layers of timm's blocks, and which targets their rows are."""


class LowRank(nn.Module):
    """What is added to the output of a linear layer: scaling x A^T B^T, (..., in) -> (..., out).

    A (rank, in) starts Kaiming uniform, B (out, rank) at zero: the method starts as the backbone. The product B A,
    as large as the layer's weight, is never formed.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scaling: float, dropout: float):
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout, self.scaling = nn.Dropout(dropout), scaling

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B) * self.scaling


class Lora(HeadMethod):
    """Low-rank changes of the weights of every block, and a linear head.

    `rank`: r. `alpha`: the changes are scaled by alpha / rank. `targets`: which weights, any of q, k, v, o (attention)
    and fc1, fc2 (MLP); of a fused qkv each part has its own A and B. `dropout`: on the input of A.
    Learns `blocks.i.<target>.lora_A` (rank, in), `blocks.i.<target>.lora_B` (out, rank) and the head.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        rank: int = 4,
        alpha: float = 4.0,
        targets: Sequence[str] = ("q", "v"),
        dropout: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes, head_init)
        _check(rank, targets, dropout)
        # blocks around torch's MultiheadAttention call no linear layers that could be hooked: they are taken apart
        self._taken_apart = any(isinstance(module, nn.MultiheadAttention) for module in backbone.modules())
        shapes = [_shapes(block, backbone.name, targets) for block in mlp_blocks(backbone)]
        if not shapes:
            raise InputError(f"backbone {backbone.name!r} has no blocks with attention and MLP; choose a transformer")
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: LowRank(*shape, rank, alpha / rank, dropout) for name, shape in block.items()})
            for block in shapes
        )

    def features(self, images: Tensor) -> Tensor:
        if self._taken_apart:
            return self._block_by_block(images)
        called: set[int] = set()
        hooks = list(self._hooks(called))
        with attached(hooks):
            features = self.backbone(images)
        for module, _ in hooks:
            if id(module) not in called:
                layer = next(name for name, other in self.backbone.named_modules() if other is module)
                raise InputError(
                    f"backbone {self.backbone.name!r} reads the weight of {layer.removeprefix('model.')} without "
                    "calling it, so LoRA cannot change it; leave its targets out"
                )
        return features

    def _block_by_block(self, images: Tensor) -> Tensor:
        tokens = self.backbone.enter(self.backbone.embed(images))
        for block, changes in zip(mlp_blocks(self.backbone), self.blocks, strict=True):
            view = view_block(block)
            assert view is not None
            tokens = changed_block(view, tokens, changes)  # type: ignore[arg-type]
        return self.backbone.pool(tokens)

    def _hooks(self, called: set[int]) -> Iterator[tuple[nn.Module, Hook]]:
        for block, changes in zip(mlp_blocks(self.backbone), self.blocks, strict=True):
            for layer, names in _linears(block):
                if any(name in changes for name in names):  # type: ignore[operator]
                    yield layer, _hook(changes, names, called)


def _hook(changes: Any, names: tuple[str, ...], called: set[int]) -> Hook:
    """Adds the changes of a linear layer whose output is made of the parts `names`."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        called.add(id(module))
        parts = zip(names, output.chunk(len(names), dim=-1), strict=True)
        return torch.cat([_changed(changes, name, args[0], part) for name, part in parts], dim=-1)

    return hook


def changed_block(view: BlockView, tokens: Tensor, changes: Mapping[str, nn.Module]) -> Tensor:
    """A pre-norm block with low-rank changes of its weights, (B, N, D) -> (B, N, D)."""
    normed = view.norm1(tokens)
    parts = zip("qkv", view.part(normed, 0, 3).chunk(3, dim=-1), strict=True)
    query, key, value = (view.split(_changed(changes, name, normed, part), 1)[0] for name, part in parts)
    attended = F.scaled_dot_product_attention(query, key, value).transpose(-3, -2).flatten(-2)
    tokens = tokens + view.scale1(_changed(changes, "o", attended, view.projection(attended)))
    normed = view.norm2(tokens)
    hidden = view.activation(_changed(changes, "fc1", normed, view.up(normed)))
    return tokens + view.scale2(_changed(changes, "fc2", hidden, view.down(hidden)))


def _changed(changes: Mapping[str, nn.Module], name: str, inputs: Tensor, output: Tensor) -> Tensor:
    return output + changes[name](inputs) if name in changes else output


def _linears(block: nn.Module) -> list[tuple[nn.Linear, tuple[str, ...]]]:
    modules = dict(block.named_modules())
    return [(modules[path], names) for path, names in LINEARS.items() if isinstance(modules.get(path), nn.Linear)]  # type: ignore[misc]


def _shapes(block: Any, backbone: str, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """{target: (in, out)} of a block, in the order of `TARGETS`."""
    if isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
        if view_block(block) is None:
            raise InputError(f"backbone {backbone!r} has blocks of a kind that LoRA does not know")
        up, down, width = block.mlp.c_fc, block.mlp.c_proj, block.attn.embed_dim
        found = {name: (width, width) for name in "qkvo"}
        found |= {"fc1": (up.in_features, up.out_features), "fc2": (down.in_features, down.out_features)}
    else:
        layers = ((layer, names, name) for layer, names in _linears(block) for name in names)
        found = {name: (layer.in_features, layer.out_features // len(names)) for layer, names, name in layers}
    for target in targets:
        if target not in found:
            raise InputError(f"backbone {backbone!r} has no linear layer for LoRA's target {target!r}")
    return {name: found[name] for name in TARGETS if name in targets}


def _check(rank: int, targets: Sequence[str], dropout: float) -> None:
    if rank < 1:
        raise InputError(f"rank is {rank}; LoRA needs at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}; it takes a share from 0 to below 1")
    if not targets:
        raise InputError(f"targets is empty; LoRA changes at least one of {', '.join(TARGETS)}")
    for target in targets:
        if target not in TARGETS:
            raise unknown("target of LoRA", target, TARGETS)
