"""One view of a transformer block, so that parts of it can be computed alone; blocks it does not know it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm.layers as timm_layers
import torch
import torch.nn.functional as F
from open_clip import transformer as clip_parts
from timm.models import vision_transformer as timm_parts
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import is_parametrized

NORMS = (nn.LayerNorm, clip_parts.LayerNorm, clip_parts.LayerNormFp32, timm_layers.LayerNorm)
SCALES = (nn.Identity, clip_parts.LayerScale, timm_parts.LayerScale)
QUICK_GELUS = (clip_parts.QuickGELU, timm_layers.activations.QuickGELU)
ACTIVATIONS = (nn.GELU, *QUICK_GELUS)
LINEARS = (nn.Linear, NonDynamicallyQuantizableLinear)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _QuickGELU(torch.autograd.Function):
    """x sigmoid(1.702 x), keeping x alone for backward; the module keeps the sigmoid too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu(1.702 * x).div_(1.702)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, 1.702 * x)


class BlockView:
    """A pre-norm block x + attention(norm(x)), x + mlp(norm(x)) of open_clip or timm, taken apart.

    Weights are read at every call, never copied: `.to()`, `.half()` and edits need no notice. Norms are called as
    modules (OpenAI's computes in float32). Shapes: tokens (..., N, D), heads (..., H, N, D / H).
    """

    def __init__(self, block: Any):
        self.block = block
        timm = isinstance(block, timm_parts.Block)
        self.norm1: Callable[[Tensor], Tensor] = block.norm1 if timm else block.ln_1
        self.norm2: Callable[[Tensor], Tensor] = block.norm2 if timm else block.ln_2
        self.scale1, self.scale2 = (block.ls1, block.ls2) if timm else (block.ls_1, block.ls_2)
        self.projection = block.attn.proj if timm else block.attn.out_proj
        self.up, self.down = (block.mlp.fc1, block.mlp.fc2) if timm else (block.mlp.c_fc, block.mlp.c_proj)
        activation = block.mlp.act if timm else block.mlp.gelu
        self.activation = _QuickGELU.apply if isinstance(activation, QUICK_GELUS) else activation
        self.heads: int = block.attn.num_heads
        self.timm = timm

    def weights(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Weight ((last - first) D, D) and bias of projections `first` to `last` - 1 of (query, key, value)."""
        attention = self.block.attn
        weight, bias = (
            (attention.qkv.weight, attention.qkv.bias)
            if self.timm
            else (attention.in_proj_weight, attention.in_proj_bias)
        )
        width = len(weight) // 3
        rows = slice(first * width, last * width)
        return weight[rows], None if bias is None else bias[rows]

    def part(self, normed: Tensor, first: int, last: int) -> Tensor:
        """Projections `first` to `last` - 1 of (query, key, value): (..., N, D) to (..., N, (last - first) D)."""
        return F.linear(normed, *self.weights(first, last))

    def split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(..., N, parts D) to `parts` tensors (..., H, N, D / H)."""
        return tuple(t.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for t in projected.chunk(parts, dim=-1))

    def absorbed(self, query: Tensor, normed: Tensor) -> Tensor:
        """Attention of few queries (B, H, M, D / H) to many normed tokens (B, N, D) without their keys and values.

        The keys' weights are folded into the queries, the values' weights follow the average; the keys' bias moves
        all scores of a query alike and drops out. Gives (B, H, M, D / H).
        """
        size = query.shape[-1]
        weights, bias = self.weights(1, 3)
        key, value = (weight.unflatten(0, (self.heads, size)) for weight in weights.chunk(2))
        folded = torch.einsum("bhms,hsd->bhmd", query * size**-0.5, key).flatten(1, 2)
        scores = (folded @ normed.transpose(1, 2)).softmax(dim=-1)
        averages = (scores @ normed).unflatten(1, (self.heads, -1))
        attended = torch.einsum("bhmd,hsd->bhms", averages, value)
        return attended if bias is None else attended + bias.chunk(2)[1].view(self.heads, 1, size).to(attended.dtype)

    def finish(self, attended: Tensor, tokens: Tensor) -> Tensor:
        """Attention output (..., H, N, D / H) and the block's input (..., N, D) to the block's output."""
        tokens = tokens + self.scale1(self.projection(attended.transpose(-3, -2).flatten(-2)))
        return tokens + self.scale2(self.down(self.activation(self.up(self.norm2(tokens)))))


def view_block(block: nn.Module) -> BlockView | None:
    """The view of a block whose every part is known, else None: hooks, wrappers, gates, q/k norms and the like."""
    known = _is_clip_block(block) or _is_timm_block(block)
    touched = any(getattr(module, name) for module in block.modules() for name in HOOKS) or any(
        is_parametrized(module) for module in block.modules()
    )
    return BlockView(block) if known and not touched else None


def _is_clip_block(block: Any) -> bool:
    if type(block) is not clip_parts.ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention, mlp = block.attn, block.mlp
    plain = type(attention) is nn.MultiheadAttention and type(attention.out_proj) in LINEARS
    whole = plain and attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    layers = type(mlp) is nn.Sequential and list(dict(mlp.named_children())) == ["c_fc", "gelu", "c_proj"]
    return (
        whole
        and layers
        and attention.batch_first
        and not attention.dropout
        and _known((block.ln_1, block.ln_2), (block.ls_1, block.ls_2), mlp.gelu, (mlp.c_fc, mlp.c_proj))
    )


def _is_timm_block(block: Any) -> bool:
    if (
        type(block) is not timm_parts.Block
        or type(block.attn) is not timm_parts.Attention
        or type(block.mlp) is not timm_layers.Mlp
    ):
        return False
    attention, mlp = block.attn, block.mlp
    extras = (attention.q_norm, attention.k_norm, getattr(attention, "norm", nn.Identity()), mlp.norm)
    drops = (attention.attn_drop, attention.proj_drop, mlp.drop1, mlp.drop2, block.drop_path1, block.drop_path2)
    idle = all(not drop.training or _never_drops(drop) for drop in drops)
    bare = all(type(extra) is nn.Identity for extra in extras) and getattr(attention, "gate", None) is None
    square = attention.qkv.out_features == 3 * attention.qkv.in_features
    return (
        idle
        and bare
        and square
        and _known(
            (block.norm1, block.norm2),
            (block.ls1, block.ls2),
            mlp.act,
            (mlp.fc1, mlp.fc2, attention.qkv, attention.proj),
        )
    )


def _never_drops(module: nn.Module) -> bool:
    if isinstance(module, timm_layers.DropPath):
        return not module.drop_prob
    return type(module) is nn.Identity or (type(module) is nn.Dropout and module.p == 0)


def _known(
    norms: tuple[nn.Module, ...], scales: tuple[nn.Module, ...], activation: nn.Module, linears: tuple[nn.Module, ...]
) -> bool:
    return (
        all(type(norm) in NORMS for norm in norms)
        and all(type(scale) in SCALES for scale in scales)
        and type(activation) in ACTIVATIONS
        and all(type(linear) in LINEARS for linear in linears)
    )
