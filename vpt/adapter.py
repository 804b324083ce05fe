"""Adapters at the MLP of every block, serial (Pfeiffer et al., arXiv:2005.00247) or parallel (AdaptFormer)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.blocks import TokenHook
from promptvision.errors import InputError, unknown
from vpt.parts.attach import Hook, attached, mlp_blocks, mlp_linears, mlp_norm
from vpt.parts.bottleneck import Bottleneck
from vpt.parts.heads import Head, HeadMethod

INITS = ("identity", "published")
READS = ("stream", "normed")
OFFICIAL = {
    "adaptmlp.down_proj": "adapter_downsample",
    "adaptmlp.up_proj": "adapter_upsample",
    "adaptmlp.adapter_layer_norm_before": "adapter_norm",
    "adaptmlp.scale": "adapter_scale",
    "head.0.": "head.projection.0.",
    "head.1.": "head.last_layer.",
    "head.weight": "head.last_layer.weight",
    "head.bias": "head.last_layer.bias",
}
"""Parts of the names of learned tensors in ShoufaChen/AdaptFormer, and ours."""


class Adapter(HeadMethod):
    """A bottleneck at the MLP of every block, and a linear head: h + u + up(gelu(down(u))), u = mlp(norm(h)).

    That is Pfeiffer's form (arXiv:2005.00247), as in VPT's code. `reduction`: the tokens' width D over the
    bottleneck's. `bottleneck`: width of the bottleneck, in place of `reduction`; 0 for that. `parallel`: AdaptFormer's
    form, h + u + scale up(relu(down(h))) (arXiv:2205.13535). `sequential`: that of AdaptFormer's code after the MLP,
    h + u + scale up(relu(down(u))). `reads`: input of the parallel form, "stream", the tokens h before the block's
    norm, as in the published image runs, or "normed", norm(h), as in equation 3.
    `scale`: factor of AdaptFormer's two forms. `learned_scale`: the factor is learned, from 1. `norm`: a layer norm of
    the adapter's own on its input ("in") or output ("out"). `dropout`: dropout before `up`; AdaptFormer's is 0.1.
    `init`: "identity" draws `down` as torch does, Kaiming uniform, and starts `up` at zero, in AdaptFormer's forms the
    bias of `down` too (section 3.2): nothing changes at first and all can learn; "published" is VPT's code, all zeros:
    then only the bias of `up` ever gets a gradient. `head_init`: init of the classifier, "small" or "published".
    `head_norm`: a batch norm without weights before the classifier, as in AdaptFormer's image runs.
    If a block scales its MLP's output (layer scale), the adapter is part of that output and is scaled too.
    Learns `blocks.i.adapter_{down,up}sample.{weight, bias}`, `blocks.i.adapter_{norm, scale}` if asked for, and the
    head; `load_learned_state` takes the names of AdaptFormer's code too.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        reduction: int = 8,
        bottleneck: int = 0,
        parallel: bool = False,
        sequential: bool = False,
        reads: str = "stream",
        scale: float = 0.1,
        learned_scale: bool = False,
        norm: str = "none",
        dropout: float = 0.0,
        init: str = "identity",
        head_init: str = "small",
        head_norm: bool = False,
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init, norm=head_norm)
        for name, value, choices in (("init of an adapter", init, INITS), ("reads of an adapter", reads, READS)):
            if value not in choices:
                raise unknown(name, value, choices)
        if parallel and sequential:
            raise InputError("an adapter is parallel or sequential, not both; set one of the two")
        found = mlp_blocks(backbone)
        widths = [mlp_linears(block)[-1].out_features for block in found]
        if not widths:
            raise InputError(f"backbone {backbone.name!r} has no blocks with an MLP to adapt; choose a transformer")
        if not 1 <= reduction <= min(widths):
            raise InputError(f"reduction is {reduction}; it divides the width {min(widths)}: take 1 to {min(widths)}")
        if bottleneck < 0:
            raise InputError(f"bottleneck is {bottleneck}; take a width of 1 or more, or 0 for that of reduction")
        self.parallel, self.adapt_former = parallel, parallel or sequential
        self.from_stream = parallel and reads == "stream" and all(mlp_norm(block) for block in found)
        self.blocks = nn.ModuleList(self._bottleneck(width) for width in widths)

    def _bottleneck(self, width: int) -> Bottleneck:
        """Return the adapter of a block of this width at its initial values."""
        ours, hidden = self.options, self.options["bottleneck"] or width // self.options["reduction"]
        kind = {"norm": ours["norm"], "dropout": ours["dropout"]}
        if self.adapt_former:
            made = Bottleneck(width, hidden, F.relu, scale=None if ours["learned_scale"] else ours["scale"], **kind)
            nn.init.zeros_(made.adapter_downsample.bias)
        else:
            made = Bottleneck(width, hidden, F.gelu, scale=None if ours["learned_scale"] else 1.0, **kind)
        zero = (made.adapter_upsample, made.adapter_downsample)
        for layer in zero if ours["init"] == "published" else zero[:1]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return made

    def features(self, images: Tensor) -> Tensor:
        with attached(self._hooks()):
            return self.backbone(images)

    def _hooks(self) -> Iterator[tuple[nn.Module, Hook]]:
        """Yield the modules of the backbone that the adapters change or read, each with its hook."""
        streams: dict[nn.Module, Tensor] = {}

        def read(norm: nn.Module, args: tuple[Tensor, ...], output: Tensor, mlp: nn.Module) -> None:
            streams[mlp] = args[0]

        def adapted(mlp: nn.Module, args: tuple[Tensor, ...], output: Tensor, bottleneck: Bottleneck) -> Tensor:
            if not self.parallel:
                return output + bottleneck(output)
            return output + bottleneck(streams.pop(mlp, args[0]) if self.from_stream else args[0])

        draws = self.training and self.options["dropout"] > 0
        hook: type[partial] = partial if draws else TokenHook
        blocks: Any = zip(mlp_blocks(self.backbone), self.blocks, strict=True)
        for block, bottleneck in blocks:
            if self.from_stream:
                yield mlp_norm(block), hook(read, mlp=block.mlp)
            yield block.mlp, hook(adapted, bottleneck=bottleneck)

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        renamed = {}
        for name, tensor in state.items():
            theirs = next((part for part in OFFICIAL if part in name), "")
            renamed[name.replace(theirs, OFFICIAL[theirs]) if theirs else name] = tensor
        super().load_learned_state(renamed)
