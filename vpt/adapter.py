"""Adapters at the MLP of every block, serial (Pfeiffer et al., arXiv:2005.00247) or parallel (AdaptFormer)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from vpt.parts.attach import attached, mlp_blocks, mlp_linears
from vpt.parts.heads import Head, HeadMethod

INITS = ("identity", "published")


class Adapter(HeadMethod):
    """A bottleneck at the MLP of every block, and a linear head: h + u + up(gelu(down(u))), u = mlp(norm(h)).

    That is Pfeiffer's form (arXiv:2005.00247), as in VPT's code. `reduction`: the tokens' width D over the
    bottleneck's. `parallel`: AdaptFormer's form (arXiv:2205.13535, equation 3), h + u + scale up(relu(down(norm(h)))).
    `scale`: factor of the parallel form. `init`: "identity" draws `down` as torch does, Kaiming uniform, and starts
    `up` at zero (AdaptFormer, section 3.2): nothing changes at first and all can learn; "published" is VPT's code, all
    zeros: then only the bias of `up` ever gets a gradient. `head_init`: init of the classifier, "small" or "published".
    If a block scales its MLP's output (layer scale), the adapter is part of that output and is scaled too.
    Learns `blocks.i.adapter_{down,up}sample.{weight, bias}` and the head.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        reduction: int = 8,
        parallel: bool = False,
        scale: float = 0.1,
        init: str = "identity",
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        if init not in INITS:
            raise unknown("init of an adapter", init, INITS)
        widths = [mlp_linears(block)[-1].out_features for block in mlp_blocks(backbone)]
        if not widths:
            raise InputError(f"backbone {backbone.name!r} has no blocks with an MLP to adapt; choose a transformer")
        if not 1 <= reduction <= min(widths):
            raise InputError(f"reduction is {reduction}; it divides the width {min(widths)}: take 1 to {min(widths)}")
        self.blocks = nn.ModuleList()
        for width in widths:
            down, up = nn.Linear(width, width // reduction), nn.Linear(width // reduction, width)
            for layer in (up, down) if init == "published" else (up,):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            self.blocks.append(nn.ModuleDict({"adapter_downsample": down, "adapter_upsample": up}))
        self.parallel, self.scale = parallel, scale

    def features(self, images: Tensor) -> Tensor:
        def adapted(mlp: nn.Module, args: tuple[Tensor, ...], output: Tensor, layers: nn.ModuleDict) -> Tensor:
            down, up = layers["adapter_downsample"], layers["adapter_upsample"]
            if self.parallel:
                return output + self.scale * up(F.relu(down(args[0])))
            return output + up(F.gelu(down(output)))

        blocks: Any = zip(mlp_blocks(self.backbone), self.blocks, strict=True)
        with attached((block.mlp, partial(adapted, layers=layers)) for block, layers in blocks):
            return self.backbone(images)
