"""Lean forward passes of pre-norm transformers: open_clip's towers and timm's ViT, for training on a CPU.

They equal the libraries' own up to rounding, and leave out what a training step need not compute: padding after the
longest text of a part of the batch, and in the last block all tokens but the one that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

PARTS = 4
"""Parts of a batch of texts, sorted by length, each of which is cut after its own longest."""


@dataclass(frozen=True)
class Block:
    """The layers of a pre-norm transformer block."""

    norm1: nn.LayerNorm
    weight: Tensor  # (3 width, width): queries, keys, values
    bias: Tensor  # (3 width,)
    out: nn.Linear
    norm2: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    heads: int

    @classmethod
    def of_open_clip(cls, block: nn.Module) -> Block:
        """Return the layers of open_clip's ResidualAttentionBlock."""
        attn, mlp = block.attn, block.mlp
        return cls(
            block.ln_1, attn.in_proj_weight, attn.in_proj_bias, attn.out_proj,
            block.ln_2, mlp.c_fc, mlp.c_proj, attn.num_heads,
        )  # fmt: skip

    @classmethod
    def of_timm(cls, block: nn.Module) -> Block:
        """Return the layers of timm's Block."""
        attn, mlp = block.attn, block.mlp
        return cls(
            block.norm1, attn.qkv.weight, attn.qkv.bias, attn.proj, block.norm2, mlp.fc1, mlp.fc2, attn.num_heads
        )

    def __call__(self, x: Tensor, causal: bool) -> Tensor:
        """Return x (n, L, width) after the block."""
        n, length, width = x.shape
        split = F.linear(self.norm1(x), self.weight, self.bias).view(n, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self._rest(x, seen.transpose(1, 2).reshape(n, length, width))

    def read(self, x: Tensor, at: Tensor | None) -> Tensor:
        """Return only the token that is read, (n, width): the one at `at`, which sees those up to it, else the first.

        The others matter for their keys and values alone.
        """
        n, length, width = x.shape
        h = self.norm1(x)
        rows = torch.arange(n)
        first = torch.zeros(n, dtype=torch.long) if at is None else at
        q = F.linear(h[rows, first], self.weight[:width], self.bias[:width]).view(n, self.heads, 1, -1)
        k, v = F.linear(h, self.weight[width:], self.bias[width:]).view(n, length, 2, self.heads, -1).permute(
            2, 0, 3, 1, 4
        )  # fmt: skip
        mask = None if at is None else (torch.arange(length) <= at[:, None])[:, None, None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self._rest(x[rows, first], seen.reshape(n, width))

    def _rest(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return x after what the attention has seen and the MLP."""
        x = x + self.out(seen)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def run(blocks: Sequence[Block], x: Tensor, at: Tensor | None = None) -> Tensor:
    """Return the token at `at` of x (n, L, width), causally, or the first one, (n, width), after all blocks."""
    for block in blocks[:-1]:
        x = block(x, at is not None)
    return blocks[-1].read(x, at)


def cut(images: Tensor, patch: int) -> Tensor:
    """Return the patches of uint8 images, normalized by CLIP's mean and deviation, (n, patches, 3 patch^2)."""
    n, _, side, _ = images.shape
    grid = images.view(n, 3, side // patch, patch, side // patch, patch).permute(0, 2, 4, 1, 3, 5)
    patches = grid.reshape(n, -1, 3 * patch**2)
    mean, std = (
        torch.tensor(v).repeat_interleave(patch**2)
        for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (patches / 255 - mean) / std


def _tokens(images: Tensor, conv: nn.Conv2d, first: Tensor, positions: Tensor) -> Tensor:
    """Embed patches after the class token `first`; `positions` (1 + patches, width)."""
    x = F.linear(cut(images, conv.kernel_size[0]), conv.weight.flatten(1), conv.bias)
    x = x + positions[1:]
    return torch.cat([(first + positions[0]).expand(len(x), 1, -1), x], 1)


def encode_image(model: CLIP, images: Tensor) -> Tensor:
    """Encode uint8 images (n, 3, side, side); (n, embed_dim), unit length."""
    v = model.visual
    x = v.ln_pre(_tokens(images, v.conv1, v.class_embedding, v.positional_embedding))
    x = run([Block.of_open_clip(block) for block in v.transformer.resblocks], x)
    return F.normalize(v.ln_post(x) @ v.proj, dim=-1)


def encode_text(model: CLIP, rows: Tensor) -> Tensor:
    """Encode texts (n, L) of `Words`; (n, embed_dim), unit length."""
    ends = rows.argmax(1)
    order = ends.argsort(stable=True)
    blocks = [Block.of_open_clip(block) for block in model.transformer.resblocks]
    read = []
    for part in order.tensor_split(min(PARTS, len(rows))):
        length = int(ends[part[-1]]) + 1
        x = model.token_embedding(rows[part, :length]) + model.positional_embedding[:length]
        read.append(run(blocks, x, ends[part]))
    features = torch.cat(read)[order.argsort()]
    return F.normalize(model.ln_final(features) @ model.text_projection, dim=-1)


def encode_vit(model: VisionTransformer, images: Tensor) -> Tensor:
    """Encode uint8 images by a timm ViT with class token; (n, width)."""
    x = _tokens(images, model.patch_embed.proj, model.cls_token[0, 0], model.pos_embed[0])
    return model.norm(run([Block.of_timm(block) for block in model.blocks], x))
