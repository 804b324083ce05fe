"""Adapters behind, or beside, the MLP of every block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from vpt.parts.attach import Hook, attached, mlp_blocks, mlp_width
from vpt.parts.heads import HeadMethod

INITS = ("identity", "published")


class Bottleneck(nn.Module):
    """Down to D // reduction numbers and up again, (..., D) -> (..., D).

    `init`: "identity" draws `down` as torch does, Kaiming uniform, and starts `up` at zero (AdaptFormer, section 3.2):
    nothing changes at first and all can learn. "published" is VPT's code, all zeros: then only the bias of `up` ever
    gets a gradient.
    """

    def __init__(self, dim: int, reduction: int, init: str):
        super().__init__()
        self.adapter_downsample = nn.Linear(dim, dim // reduction)
        self.adapter_upsample = nn.Linear(dim // reduction, dim)
        zero = [self.adapter_upsample, *([self.adapter_downsample] if init == "published" else [])]
        for tensor in (tensor for layer in zero for tensor in layer.parameters()):
            nn.init.zeros_(tensor)

    def serial(self, mlp_output: Tensor) -> Tensor:
        """What Pfeiffer's adapter adds to the MLP's output."""
        return self.adapter_upsample(F.gelu(self.adapter_downsample(mlp_output)))

    def parallel(self, mlp_input: Tensor) -> Tensor:
        """What AdaptFormer adds, before its scale, to the MLP's output."""
        return self.adapter_upsample(F.relu(self.adapter_downsample(mlp_input)))


class Adapter(HeadMethod):
    """A bottleneck at the MLP of every block, and a linear head: h + u + up(gelu(down(u))), u = mlp(norm(h)).

    That is Pfeiffer's form (arXiv:2005.00247), as VPT's code has it. `parallel`: AdaptFormer's (arXiv:2205.13535,
    equation 3), h + u + scale up(relu(down(norm(h)))). `reduction`: D over the bottleneck's width. `scale`: of the
    parallel form. `init`: "identity" or "published" (`Bottleneck`). Where a block scales its MLP's output (layer
    scale) the adapter is part of that output and is scaled too.
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
        super().__init__(backbone, classes, head_init)
        if init not in INITS:
            raise unknown("init of an adapter", init, INITS)
        widths = [mlp_width(block) for block in mlp_blocks(backbone)]
        if not widths:
            raise InputError(f"backbone {backbone.name!r} has no blocks with an MLP to adapt; choose a transformer")
        if not 1 <= reduction <= min(widths):
            raise InputError(f"reduction is {reduction}; it divides the width {min(widths)}: take 1 to {min(widths)}")
        self.blocks = nn.ModuleList(Bottleneck(width, reduction, init) for width in widths)
        self.parallel, self.scale = parallel, scale

    def features(self, images: Tensor) -> Tensor:
        with attached(self._hooks()):
            return self.backbone(images)

    def _hooks(self) -> Iterator[tuple[nn.Module, Hook]]:
        for block, adapter in zip(mlp_blocks(self.backbone), self.blocks, strict=True):
            yield block.mlp, self._hook(adapter)  # type: ignore[misc]

    def _hook(self, adapter: Any) -> Hook:
        def serial(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + adapter.serial(output)

        def parallel(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + self.scale * adapter.parallel(args[0])

        return parallel if self.parallel else serial
