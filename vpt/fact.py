"""FacT: all changes of weights as one tensor in factors (Jie and Deng, AAAI 2023, arXiv:2212.03145)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown
from vpt.parts.attach import own_blocks
from vpt.parts.changes import FactorChange, block_views, changed_features
from vpt.parts.folding import copied, rows
from vpt.parts.heads import Head, HeadMethod

DECOMPOSITIONS = ("tt", "tk")
PLACES = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "o": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""Targets, and the names of their layers in the official code."""


class FacT(HeadMethod):
    """Changes of all weights of attention and MLP from one tensor in factors, and a linear head.

    A layer's change is `scale` V M U with U (r, D) and V (D, r) of the whole network. `decomposition`: "tt",
    tensor-train, where each layer has an M (r, r) of its own; or "tk", Tucker, where all M are mixtures of the r slices
    of one core. `rank`: r, the width of the factors. `scale`: factor of the change. `dropout`: dropout before V, 0.1 as
    published. `head_init`: init of the classifier, "small" or "published". V starts at zero, so the method starts as
    the backbone.
    Learns `FacTu.weight`, `FacTv.weight`, with "tt" `blocks.i.{attn.q, attn.k, attn.v, attn.proj, mlp.fc1,
    mlp.fc2}_FacTs.weight`, with "tk" `FacTc` (r, r, r) and `FacTp` (r, 12 depth), and the head.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        decomposition: str = "tt",
        rank: int = 16,
        scale: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        if decomposition not in DECOMPOSITIONS:
            raise unknown("decomposition of FacT", decomposition, DECOMPOSITIONS)
        if rank < 1 or not 0 <= dropout < 1:
            raise InputError(f"rank is {rank}, dropout {dropout}; FacT takes 1 or more, and 0 to below 1")
        width, hidden = backbone.width, {view.up.out_features for view in block_views(backbone, "FacT")}
        self.parts = min(hidden) // width
        if {self.parts * width} != hidden:
            raise InputError(f"FacT cuts MLPs into parts of {width}; backbone {backbone.name!r} has {sorted(hidden)}")
        self.FacTu, self.FacTv = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.FacTv.weight)
        if decomposition == "tk":
            columns = (4 + 2 * self.parts) * backbone.depth
            self.FacTc = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
            self.FacTp = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, columns)))
        else:
            self.blocks = nn.ModuleList(_layers(rank, self.parts) for _ in backbone.blocks)

    def features(self, images: Tensor) -> Tensor:
        dropout = self.options["dropout"] if self.training else 0.0
        return changed_features(self.backbone, images, self._changes(dropout))

    @torch.no_grad()
    def merged(self) -> ImageTower:
        tower = copied(self.backbone)
        for block, changes in zip(own_blocks(tower), self._changes(), strict=True):
            for name, own in rows(block).items():
                outputs, inputs = own.weight.shape
                unit, nothing = torch.eye(inputs).to(own.weight), own.weight.new_zeros(inputs, outputs)
                own.weight.add_(changes[name](unit, nothing).T)
        return tower

    def _changes(self, dropout: float = 0.0) -> list[dict[str, FactorChange]]:
        """Return the changes of each block by target."""
        down, up, scale = self.FacTu.weight, self.FacTv.weight, self.options["scale"]
        return [
            {name: FactorChange(down, core, up, scale, dropout) for name, core in cores.items()}
            for cores in self._cores()
        ]

    def _cores(self) -> Iterator[dict[str, Tensor]]:
        """Yield M, as applied to column vectors, of each block by target."""
        if self.options["decomposition"] == "tt":
            for block in self.blocks:
                layers: dict[str, Any] = {name: block.get_submodule(f"{place}_FacTs") for name, place in PLACES.items()}
                yield {name: layer.weight for name, layer in layers.items()}
            return
        slices: Any = torch.einsum("abk,kp->abp", self.FacTc, self.FacTp)
        sizes = [1, 1, 1, 1, self.parts, self.parts]
        for block in slices.split(sum(sizes), dim=-1):
            cores = dict(zip(PLACES, (each.flatten(1) for each in block.split(sizes, dim=-1)), strict=True))
            yield {name: core if name == "fc2" else core.T for name, core in cores.items()}


def _layers(rank: int, parts: int) -> nn.ModuleDict:
    """Return the M of a block under their official names, at torch's own start."""
    sizes = dict.fromkeys(PLACES.values(), (1, 1)) | {"mlp.fc1": (1, parts), "mlp.fc2": (parts, 1)}
    made = {"attn": nn.ModuleDict(), "mlp": nn.ModuleDict()}
    for place, (ins, outs) in sizes.items():
        part, _, layer = place.partition(".")
        made[part][f"{layer}_FacTs"] = nn.Linear(ins * rank, outs * rank, bias=False)
    return nn.ModuleDict(made)
