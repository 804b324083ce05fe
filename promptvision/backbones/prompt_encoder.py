"""Text features of prompts with learned contexts, or through a changed tower, in the plain or the fast way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from promptvision.backbones.blocks import BlockView
from promptvision.backbones.classes.shares import gathered, share
from promptvision.backbones.fast_text import Layers, PackedPrompts, each_layer, known_views, rows_of, skipped
from promptvision.backbones.packing import CONSTANT
from promptvision.backbones.towers import TextTower
from promptvision.errors import InputError, counted

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
"""Ways to compute attention: all of torch's."""


class PromptEncoder(torch.nn.Module):
    """Prompts of C classes, token ids (C, L); `slots` (C, L) is the index of the context vector at a place, or -1.

    `eot` (C,): the end tokens. `class_specific`: every class has contexts of its own. The tower's `compute` decides
    which way is used, and in what chunks.
    """

    eot: Tensor
    start: int = 0
    """The block that the first contexts enter."""

    def __init__(
        self, tower: TextTower, ids: Tensor, slots: Tensor, eot: Tensor, *,
        class_specific: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.class_specific = class_specific
        ids, slots = (t[:, : int(eot.max()) + 1].clone() if tower.causal else t for t in (ids, slots))
        self.packed = self.packing(ids, slots, eot)
        self.register_buffer("eot", eot, persistent=False)

    def packing(self, ids: Tensor, slots: Tensor, eot: Tensor) -> PackedPrompts:
        """Return the packed layout of the prompts, for the fast way."""
        return PackedPrompts(ids, slots, eot, self.class_specific)

    @property
    def ids(self) -> Tensor:
        """Return the token ids, which the packed layout holds."""
        return self.packed.ids

    @property
    def slots(self) -> Tensor:
        """Return the slots, which the packed layout holds."""
        return self.packed.slots

    @property
    def n_ctx(self) -> int:
        """Return the number of contexts M."""
        return int(self.slots.max()) + 1

    def forward(self, tower: TextTower, ctx: Tensor, deep: Layers = ()) -> Tensor:
        """Encode contexts (M, D), or (C, M, D) if class-specific, into features (C, E); a leading R stays in front.

        `deep[i]`, shaped as `ctx`, replaces the contexts at the entrance of block `start` + 1 + i (deep language
        prompts; MaPLe, arXiv:2210.03117, section 3.2.1); where it is None, and after the last of them, the tokens pass
        on unchanged. With M' < M vectors it replaces the last M' contexts, and the others run through.
        """
        if self.start + len(deep) >= max(1, len(tower.blocks)):
            raise InputError(
                f"{self.start + len(deep) + 1} layers of prompts; "
                f"this text tower shows {counted(len(tower.blocks), 'block')}"
            )
        layers = [ctx, *deep]
        if any(is_batchedtensor(layer) for layer in layers if layer is not None):
            return Together.apply(partial(self._features, tower), *layers)  # type: ignore[no-untyped-call]
        return self._features(tower, layers)

    def _features(self, tower: TextTower, layers: Layers) -> Tensor:
        """Encode the contexts that enter each block, as `forward` does."""
        first = layers[0]
        single = first is not None and first.dim() == (3 if self.class_specific else 2)
        layers = each_layer(layers, lambda layer: layer[None] if single else layer)
        views = tower.compute.views(
            lambda: known_views(tower),
            "this text tower has parts that the fast way does not know (no causal mask, foreign blocks, hooks or "
            "trainable weights)",
        )
        chunk = tower.compute.chunk
        features = self.packed(tower, views[self.start :], layers, chunk) if views else self._plain(tower, layers)
        return features[0] if single else features

    def prompts(self, tower: TextTower, ctx: Tensor, part: Tensor | None = None) -> Tensor:
        """Put contexts (R, M, D), or (R, C, M, D) if class-specific, into their places in prompts (N, L, D).

        `part` (N,): indices among all R C; None for all.
        """
        part = torch.arange(len(ctx) * len(self.slots), device=self.slots.device) if part is None else part
        return self._placed(ctx, 0, part, tower.embed(self.ids[part % len(self.slots)]).detach())

    def _placed(self, ctx: Tensor, skip: int, part: Tensor, tokens: Tensor) -> Tensor:
        """Put contexts (R, ...), those after the first `skip`, into tokens (N, L, D) of prompts `part` (N,), indices
        among all R C."""
        row, own = (part // len(self.slots))[:, None], part % len(self.slots)
        slots = self.slots[own, : tokens.shape[1]] - skip
        which = slots.clamp(min=0)
        vectors = ctx[row, own[:, None], which] if self.class_specific else ctx[row, which]
        return torch.where(slots[..., None] >= 0, vectors.to(tokens.dtype), tokens)

    def encoded(self, tower: TextTower, part: Tensor, layers: Layers) -> Tensor:
        """Encode prompts `part` (N,), indices among all R C, whole, through untouched blocks, into features (N, E)."""

        def entered(block: Callable[..., Tensor], own: Tensor, tokens: Tensor, **more: Tensor) -> Tensor:
            return block(self._placed(own, skipped(layers, own), part, tokens), **more)

        first, *others = layers
        assert first is not None
        blocks: list[Callable[..., Tensor]] = list(tower.blocks)
        for index, vectors in enumerate(others, 1):
            blocks[index] = blocks[index] if vectors is None else partial(entered, blocks[index], vectors)
        prompts, eot = self.prompts(tower, first, part), self.eot[part % len(self.slots)]
        encode = cast(Callable[..., Tensor], tower.encode)
        return encode(prompts, eot, *([blocks] if others else []))

    def _plain(self, tower: TextTower, layers: Layers) -> Tensor:
        """Encode every prompt whole, at most `tower.compute.chunk` of them at once."""
        rows, encoded = rows_of(layers), partial(self.encoded, tower)
        count = rows * len(self.slots)

        def some(number: int) -> Tensor:
            leaves = each_layer(layers, lambda layer: layer.detach().requires_grad_())
            return encoded(torch.arange(number, device=self.eot.device), leaves)

        (start, stop), chunk = share(count), tower.compute.chunk
        size = self.packed.room.pieces(("plain",), tower, some, count) if chunk == "auto" else int(chunk) or count
        parts = torch.arange(start, stop, device=self.eot.device).split(size)
        again = partial(checkpoint, encoded, use_reentrant=False) if len(parts) > 1 else encoded
        found = torch.cat([again(part, layers) for part in parts])
        return gathered(found[None], start, count)[0].unflatten(0, (rows, -1))


class Together(torch.autograd.Function):
    """Contexts of many runs (`torch.func.vmap`), encoded as one on the encoder's own leading axis.

    Autograd follows what is computed in `vmap`. It may use fused attention, for which `torch.func.vmap` has no rule.
    """

    @staticmethod
    def forward(encode: Callable[[Sequence[Tensor]], Tensor], *layers: Tensor) -> Tensor:
        return encode(layers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], encode: Callable[[Sequence[Tensor]], Tensor], *layers: Tensor
    ) -> tuple[Tensor, int]:
        runs = info.batch_size
        rows = [
            layer.expand(runs, *layer.shape) if dim is None else layer.movedim(dim, 0)
            for layer, dim in zip(layers, in_dims[1:], strict=True)
        ]
        with sdpa_kernel(ATTENTION):
            return encode(rows), 0


class ChangedTexts(torch.nn.Module):
    """Texts as token ids (N, L) with their end tokens `eot` (N,), which are encoded again in every step.

    The fast way needs known blocks and no active dropout: dropout draws for every token of every text, so that texts
    share nothing.
    """

    eot: Tensor

    def __init__(self, tower: TextTower, ids: Tensor, eot: Tensor):
        super().__init__()
        ids = ids[:, : int(eot.max()) + 1].clone() if tower.causal else ids
        self.packed = PackedPrompts(ids, torch.full_like(ids, CONSTANT), eot, False, changing=True)
        self.register_buffer("eot", eot, persistent=False)

    @property
    def ids(self) -> Tensor:
        """Return the token ids, which the packed layout holds."""
        return self.packed.ids

    def forward(self, tower: TextTower, changed: Mapping[int, BlockView]) -> Tensor:
        """Encode the texts into features (N, E), with `changed[i]` in place of block i; blocks may learn."""
        draws = any(view.draws for view in changed.values())
        views = tower.compute.views(
            lambda: None if draws else known_views(tower, blocks_learn=True),
            "the fast way needs a text tower of known causal blocks without dropout",
        )
        if not views:
            encode: Callable[..., Tensor] = tower.encode
            blocks = [changed.get(index, block) for index, block in enumerate(tower.blocks)]
            return encode(tower.embed(self.ids).detach(), self.eot, blocks)
        no_contexts = torch.empty(1, 0, tower.width, device=self.ids.device)
        return self.packed(tower, [changed.get(index, view) for index, view in enumerate(views)], [no_contexts])[0]
