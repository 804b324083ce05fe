"""timm's blocks with rotary positions (EVA-02, DINOv3, RoPE-ViT), called with tokens only."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor, nn


def rotary_blocks(model: Any) -> tuple[RotaryBlock, ...]:
    """Return the wrapped blocks of a model with rotary positions; none for any other."""
    rotary = isinstance(model, Eva) and model.rope is not None
    return tuple(RotaryBlock(model, index) for index in range(len(model.blocks))) if rotary else ()


class RotaryBlock(nn.Module):
    """Block `index` of a timm `Eva`, untouched, called with the rotation of each token: (B, N, D) to (B, N, D).

    The last tokens are the patches, in their order; the model's own prefix tokens come first. Prompts, between them,
    are rotated by the angle 0, that is not at all. Other attributes are the block's own (`norm1`, `mlp`).
    """

    def __init__(self, model: Eva, index: int):
        super().__init__()
        self.block, self.index = model.blocks[index], index
        self._model = (model,)  # in a tuple, so that the model is no submodule of its block

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "block" else getattr(super().__getattr__("block"), name)

    def forward(self, tokens: Tensor) -> Tensor:
        rotation = self.rotation()
        prompts = tokens.shape[1] - self._model[0].num_prefix_tokens - rotation.shape[-2]
        if prompts:
            sine, cosine = rotation.chunk(2, dim=-1)
            zeros = sine.new_zeros(*sine.shape[:-2], prompts, sine.shape[-1])
            sine, cosine = torch.cat([zeros, sine], dim=-2), torch.cat([zeros + 1, cosine], dim=-2)
            rotation = torch.cat([sine, cosine], dim=-1)
        return self.block(tokens, rope=rotation)

    def rotation(self) -> Tensor:
        """Return sine and cosine for the d dimensions of a head, (patches, 2 d) or (heads, patches, 2 d)."""
        model: Any = self._model[0]
        kept = hasattr(model.rope, "feat_shape") and not model.dynamic_img_size
        rotation = model.rope.get_embed() if kept else model.rope.get_embed(shape=model.patch_embed.grid_size)
        return rotation[self.index] if model.rope_mixed else rotation
