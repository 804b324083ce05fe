"""CLIP's towers cut in two: frozen lower blocks, and copies of the upper ones that learn, with the official names."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from promptvision.backbones import CLIP
from promptvision.backbones.blocks import BlockView, view_block
from promptvision.backbones.classes.entered import entering
from promptvision.backbones.fast_text import PackedPrompts
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import ImageTower
from promptvision.errors import InputError, counted


def check_towers(clip: CLIP, start: int) -> None:
    """Raise InputError for towers that cannot be cut before block `start`, from 0."""
    image, text = clip.image, clip.text
    visual = isinstance(image, OpenClipImage) and isinstance(image.model, VisionTransformer) and image.pools_first
    if not visual or not isinstance(text, OpenClipText) or not text.causal or not isinstance(text.projection, Tensor):
        raise InputError(
            f"backbone {clip.name!r} is no CLIP of a ViT with a class token and a causal text tower; choose ViT-B-16"
        )
    depth = min(image.depth, len(text.blocks))
    if not 0 <= start < depth:
        raise InputError(f"start_layer is {start}; the towers have {counted(depth, 'block')}, so 0 to {depth - 1}")


class Upper(nn.Module):
    """Copies of the blocks from `start` on, as `resblocks.{i}`."""

    def __init__(self, blocks: Iterable[nn.Module], start: int):
        super().__init__()
        copies = {str(index): copy.deepcopy(block) for index, block in enumerate(blocks) if index >= start}
        self.resblocks = nn.ModuleDict(copies)


class UpperImage(nn.Module):
    """The blocks of an image tower from `start` on, its last norm and its projection."""

    def __init__(self, tower: OpenClipImage, start: int):
        super().__init__()
        visual: Any = tower.model
        self.transformer = Upper(tower.blocks, start)
        self.ln_post, self.proj = copy.deepcopy(visual.ln_post), copy.deepcopy(visual.proj)
        self.requires_grad_(True)

    def forward(self, tower: ImageTower, tokens: Tensor) -> Tensor:
        """Encode tokens (B, N, D) that enter the first block into features (B, E); `tower` says how."""
        *blocks, last = self.transformer.resblocks.values()
        for block in blocks:
            tokens = tower.compute.run(block, block, tokens)
        view = tower.compute.views(lambda: view_block(last), f"backbone {tower.name!r} has an unknown last block")
        tokens = tower.compute.run(view.first if view else last, last, tokens)
        return self.ln_post(tokens[:, 0]) @ self.proj


class UpperText(OpenClipText):
    """The blocks of a text tower from `start` on, its last norm and its projection, with the texts of all classes.

    The tokens of the texts as they enter the first block are computed once: `nodes` (C, L) are their rows in `outputs`,
    and tokens that all texts share are one row, so that the fast way computes them once in every step.
    """

    nodes: Tensor
    outputs: Tensor
    ends: Tensor

    def __init__(self, tower: OpenClipText, start: int, texts: Sequence[str]):
        nn.Module.__init__(self)
        self.name, self.causal, self.context_length, self.width = tower.name, True, tower.context_length, tower.width
        self.transformer = Upper(tower.blocks, start)
        self.ln_final = copy.deepcopy(tower.ln_final)
        self.text_projection = copy.deepcopy(tower.projection)
        self.requires_grad_(True)
        ids = tower.tokenize(texts)
        ends = tower.eot(ids)
        ids = ids[:, : int(ends.max()) + 1]
        nodes = torch.arange(ids.numel(), device=ids.device).view_as(ids)
        shared = int((ids == ids[:1]).all(dim=0).cumprod(dim=0).sum())
        nodes[:, :shared] = nodes[:1, :shared]
        positions = torch.zeros_like(tower.positional_embedding)
        buffers = {"nodes": nodes, "ends": ends, "mask": tower.mask, "positional_embedding": positions}
        with torch.no_grad():
            buffers["outputs"] = entering(tower, ids, start).flatten(0, 1)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self.packed = self._pack(slice(None))

    @property
    def blocks(self) -> list[nn.Module]:  # type: ignore[override]
        return list(self.transformer.resblocks.values())

    @property
    def projection(self) -> Tensor:  # type: ignore[override]
        return self.text_projection

    def embed(self, ids: Tensor) -> Tensor:
        return self.outputs[ids]

    def features(self, tower: OpenClipText, classes: Tensor | None = None) -> Tensor:
        """Encode the texts of some classes (K,), all if None, into features (K, E); `tower` says how."""
        views = tower.compute.views(self._known, "this text tower has blocks that the fast way does not know")
        if views:
            packed = self.packed if classes is None or len(classes) == len(self.nodes) else self._pack(classes)
            return packed(self, views, [self.outputs.new_empty(1, 0, self.width)])[0]
        own = slice(None) if classes is None else classes
        return self.encode(self.embed(self.nodes[own]), self.ends[own])

    def _known(self) -> list[BlockView] | None:
        return self.views()

    def _pack(self, classes: Tensor | slice) -> PackedPrompts:
        nodes = self.nodes[classes]
        return PackedPrompts(nodes, torch.full_like(nodes, CONSTANT), self.ends[classes], False, changing=True)
