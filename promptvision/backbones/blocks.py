"""A view of a transformer block, which computes parts of it alone; unknown blocks have none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    """x sigmoid(1.702 x), which saves only x for backward; the module saves the sigmoid too."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.silu(1.702 * x).div_(1.702)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        return _QuickGELU.apply(x), in_dims[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, 1.702 * x)


class TokenHook(partial):
    """A forward hook of a block's norms, layer scales, MLP or attention that treats every token alone.

    That of attention is a hook of its projection, of torch's MultiheadAttention one of the whole module too: one of the
    two is called. A block with such hooks stays known; of the last one, these may see only the first tokens.
    """


class BlockView:
    """A pre-norm block x + attention(norm(x)), x + mlp(norm(x)) of open_clip or timm, taken apart.

    Weights are read at every call, never copied, so `.to()`, `.half()` and edits take effect. Norms are called as
    modules (OpenAI's computes in float32). Shapes: tokens (..., N, D), heads (..., H, N, D / H).
    """

    draws = False
    """True if something random is drawn for every token, so that no token can be left out."""

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
        self.hooked = bool(block.mlp._forward_hooks)
        self.heads: int = block.attn.num_heads
        self.timm = timm

    def __call__(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Run the whole block, (B, N, D) -> (B, N, D); `attn_mask` (N, N) is added."""
        query, key, value = self.split(self.part(self.norm1(tokens), 0, 3), 3)
        return self.finish(F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask), tokens)

    def first(self, tokens: Tensor, count: int = 1, others: Tensor | None = None) -> Tensor:
        """Return the block's output at the first `count` tokens of (B, N, D); they see `others` (B or 1, P, D) too."""
        seen = normed = self.norm1(tokens)
        if others is not None:
            seen = torch.cat([self.norm1(others).expand(tokens.shape[0], -1, -1), normed], dim=1)
        (query,) = self.split(self.part(normed[:, :count], 0, 1), 1)
        return self.finish(self.attended(query, seen), tokens[:, :count])

    def ask(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Return the block's output (B, M, D) at queries (B or 1, M, D) that see the tokens (B, N, D) alone."""
        (query,) = self.split(self.part(self.norm1(queries), 0, 1), 1)
        normed = self.norm1(tokens)
        if queries.shape[1] * self.heads <= tokens.shape[2]:
            return self.finish(self.folded(query, normed), queries)
        return self.finish(self.attended(query.expand(tokens.shape[0], -1, -1, -1), normed), queries)

    def weights(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Return weight ((last - first) D, D) and bias of projections `first` to `last` - 1 of (query, key, value)."""
        attention = self.block.attn
        if self.timm:
            weight, bias = attention.qkv.weight, attention.qkv.bias
        else:
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
        width = len(weight) // 3
        rows = slice(first * width, last * width)
        return weight[rows], None if bias is None else bias[rows]

    def part(self, normed: Tensor, first: int, last: int) -> Tensor:
        """Project (..., N, D) to `first` to `last` - 1 of (query, key, value), (..., N, (last - first) D)."""
        return F.linear(normed, *self.weights(first, last))

    def split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (..., N, parts D) into `parts` tensors (..., H, N, D / H)."""
        return tuple(t.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for t in projected.chunk(parts, dim=-1))

    def attended(self, query: Tensor, normed: Tensor) -> Tensor:
        """Attend from queries (B, H, M, D / H) to normed tokens (B, N, D): (B, H, M, D / H)."""
        if query.shape[-2] == 1:
            return self.folded(query, normed)
        key, value = self.split(self.part(normed, 1, 3), 2)
        return F.scaled_dot_product_attention(query, key, value)

    def folded(self, query: Tensor, normed: Tensor) -> Tensor:
        """Attend as `attended` without keys and values; queries may be (1, H, M, D / H), the same for all images.

        The keys' weights are folded into the queries, and the values' weights are applied to the averages; the keys'
        bias shifts all scores of a query alike and drops out.
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
        """Return the block's output for the attention output (..., H, N, D / H) and the block's input (..., N, D)."""
        tokens = tokens + self.scale1(self.projection(attended.transpose(-3, -2).flatten(-2)))
        normed = self.norm2(tokens)
        left = self.block.mlp(normed) if self.hooked else self.down(self.activation(self.up(normed)))
        return tokens + self.scale2(left)


def view_block(block: nn.Module) -> BlockView | None:
    """Return the view of a block, or None if any part is unknown: hooks, wrappers, gates, q/k norms and the like."""
    known = _is_clip_block(block) or _is_timm_block(block)
    if not known or any(is_parametrized(module) for module in block.modules()):
        return None
    view = BlockView(block)
    alone = (view.norm1, view.norm2, view.scale1, view.scale2, view.projection, block.attn, block.mlp)
    return None if any(touched(module, spare=module in alone) for module in block.modules()) else view


def touched(module: nn.Module, spare: bool = False) -> bool:
    """Return whether a module has hooks; `spare`: those that are `TokenHook` do not count."""
    hooks = [hook for name in HOOKS for hook in getattr(module, name).values()]
    return not all(spare and isinstance(hook, TokenHook) for hook in hooks)


def _is_clip_block(block: Any) -> bool:
    """Return whether a block is open_clip's, with known parts only."""
    if type(block) is not clip_parts.ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention, mlp = block.attn, block.mlp
    if type(attention) is not nn.MultiheadAttention or type(attention.out_proj) not in LINEARS:
        return False
    if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
        return False
    if attention.dropout or not attention.batch_first:
        return False
    layers = dict(mlp.named_children()) if type(mlp) is nn.Sequential else {}
    if list(layers) != ["c_fc", "gelu", "c_proj"]:
        return False
    linears = (layers["c_fc"], layers["c_proj"])
    return _known((block.ln_1, block.ln_2), (block.ls_1, block.ls_2), layers["gelu"], linears)


def _is_timm_block(block: Any) -> bool:
    """Return whether a block is that of timm's plain ViTs, with known parts only, none of which drops anything."""
    kinds = (timm_parts.Block, timm_parts.Attention, timm_layers.Mlp)
    if type(block) is not kinds[0] or type(block.attn) is not kinds[1] or type(block.mlp) is not kinds[2]:
        return False
    attention, mlp = block.attn, block.mlp
    for drop in (attention.attn_drop, attention.proj_drop, mlp.drop1, mlp.drop2, block.drop_path1, block.drop_path2):
        share = drop.drop_prob if isinstance(drop, timm_layers.DropPath) else getattr(drop, "p", 0)
        if drop.training and (share or type(drop) not in (timm_layers.DropPath, nn.Dropout, nn.Identity)):
            return False
    extras = (attention.q_norm, attention.k_norm, getattr(attention, "norm", nn.Identity()), mlp.norm)
    if any(type(extra) is not nn.Identity for extra in extras) or getattr(attention, "gate", None) is not None:
        return False
    if attention.qkv.out_features != 3 * attention.qkv.in_features:
        return False
    linears = (mlp.fc1, mlp.fc2, attention.qkv, attention.proj)
    return _known((block.norm1, block.norm2), (block.ls1, block.ls2), mlp.act, linears)


def _known(
    norms: tuple[nn.Module, ...], scales: tuple[nn.Module, ...], activation: nn.Module, linears: tuple[nn.Module, ...]
) -> bool:
    """Return whether the parts of a block are of known classes."""
    return (
        all(type(norm) in NORMS for norm in norms)
        and all(type(scale) in SCALES for scale in scales)
        and type(activation) in ACTIVATIONS
        and all(type(linear) in LINEARS for linear in linears)
    )
