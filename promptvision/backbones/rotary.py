"""timm's blocks with rotary positions (EVA-02, DINOv3, RoPE-ViT), called as blocks of tokens alone."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor, nn


def rotary_blocks(model: Any) -> tuple[RotaryBlock, ...]:
    """The blocks of a model that turns its patches; none for any other."""
    rotary = isinstance(model, Eva) and model.rope is not None
    return tuple(RotaryBlock(model, index) for index in range(len(model.blocks))) if rotary else ()


class RotaryBlock(nn.Module):
    """Calls block `index` of a timm `Eva`, untouched, with the rotation of each token: (B, N, D) to (B, N, D).

    The last tokens are the patches, in their order; the model's own prefix tokens come first. Whatever stands between
    them, prompts, is turned by the angle 0, that is not at all. Other attributes are the block's own (`norm1`, `mlp`).
    """

    def __init__(self, model: Eva, index: int):
        super().__init__()
        self.block, self.index = model.blocks[index], index
        self._model = (model,)  # in a tuple, so that the model is no part of its block

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "block" else getattr(super().__getattr__("block"), name)

    def forward(self, tokens: Tensor) -> Tensor:
        rotation = self.rotation()
        between = tokens.shape[1] - self._model[0].num_prefix_tokens - rotation.shape[-2]
        return self.block(tokens, rope=_unturned(rotation, between) if between else rotation)

    def rotation(self) -> Tensor:
        """(patches, 2 d) or (heads, patches, 2 d): sine and cosine for the d dimensions of a head."""
        model: Any = self._model[0]
        kept = hasattr(model.rope, "feat_shape") and not model.dynamic_img_size
        rotation = model.rope.get_embed() if kept else model.rope.get_embed(shape=model.patch_embed.grid_size)
        return rotation[self.index] if model.rope_mixed else rotation


def _unturned(rotation: Tensor, count: int) -> Tensor:
    """`count` rows of sine 0 and cosine 1 put before a rotation."""
    sine, cosine = rotation.chunk(2, dim=-1)
    zeros = sine.new_zeros(*sine.shape[:-2], count, sine.shape[-1])
    return torch.cat([torch.cat([zeros, sine], dim=-2), torch.cat([zeros + 1, cosine], dim=-2)], dim=-1)
