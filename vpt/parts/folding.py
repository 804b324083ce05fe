"""Learned changes that fold into the weights of a copy of the backbone, which then costs no more than the backbone."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from promptvision.backbones import ImageTower

LINEARS = {
    "attn.qkv": ("q", "k", "v"),
    "attn.q_proj": ("q",),
    "attn.k_proj": ("k",),
    "attn.v_proj": ("v",),
    "attn.proj": ("o",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}
"""Linear layers of timm's blocks, and the targets that their rows are."""


@dataclass(frozen=True)
class Rows:
    """The rows of a linear layer that are one target of a block: weight (out, in) and bias (out,), edited in place."""

    weight: Tensor
    bias: Tensor | None

    def scale(self, factors: Tensor, shift: Tensor | None = None) -> None:
        """Multiply the layer's output by `factors` (out,) and add `shift` (out,), which needs a bias."""
        self.weight.mul_(factors.view(-1, *[1] * (self.weight.dim() - 1)))
        if self.bias is not None:
            self.bias.mul_(factors).add_(0 if shift is None else shift)


def copied(tower: ImageTower) -> ImageTower:
    """Return a frozen copy of a tower, in eval mode, whose weights may be edited."""
    return deepcopy(tower).requires_grad_(False).eval()


def linears(block: nn.Module) -> list[tuple[nn.Linear, tuple[str, ...]]]:
    """Return the linear layers of a block of timm, each with the targets that its rows are."""
    modules = dict(block.named_modules())
    return [(modules[path], names) for path, names in LINEARS.items() if isinstance(modules.get(path), nn.Linear)]  # type: ignore[misc]


def rows(block: Any, *, biases: bool = False) -> dict[str, Rows]:
    """Return the rows of a block's weights by target: q, k, v, o, fc1, fc2, those of them that it has.

    `biases`: layers without a bias get one of zeros.
    """
    found = dict[str, Rows]()
    for layer, prefix, names in _layers(block):
        whole = all_rows(layer, prefix, biases=biases)
        parts = [[None] * len(names) if each is None else each.chunk(len(names)) for each in (whole.weight, whole.bias)]
        found |= {name: Rows(*own) for name, *own in zip(names, *parts, strict=True)}  # type: ignore[arg-type]
    return found


def all_rows(layer: nn.Module, prefix: str = "", *, biases: bool = False) -> Rows:
    """Return all rows of a layer, or of a norm; `prefix` and `biases` as in `rows`."""
    weight, bias = (getattr(layer, f"{prefix}{part}") for part in ("weight", "bias"))
    if bias is None and biases:
        bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
        setattr(layer, f"{prefix}bias", bias)
    return Rows(weight.data, None if bias is None else bias.data)


def _layers(block: Any) -> Iterator[tuple[nn.Module, str, tuple[str, ...]]]:
    """Yield the layers of a block, the prefix of the names of their tensors, and the targets that their rows are."""
    attention = getattr(block, "attn", None)
    if isinstance(attention, nn.MultiheadAttention):
        yield attention, "in_proj_", ("q", "k", "v")
        yield attention.out_proj, "", ("o",)
        yield block.mlp.c_fc, "", ("fc1",)
        yield block.mlp.c_proj, "", ("fc2",)
    else:
        yield from ((layer, "", names) for layer, names in linears(block))
