"""DiffFit: biases, norms, and a factor of every branch (Xie et al., ICCV 2023, arXiv:2304.06648)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from vpt.parts.attach import own_blocks
from vpt.parts.changes import Scaling, block_views, changed_features
from vpt.parts.folding import copied, rows
from vpt.parts.heads import Head, HeadMethod
from vpt.parts.thaw import biases, layer_norms


class DiffFit(HeadMethod):
    """Every bias and layer norm, factors of attention and MLP, and a linear head.

    In every block h becomes h + gamma1 attn(norm1(h)), then h + gamma2 mlp(norm2(h)); the factors gamma (D,) start at
    1. `head_init`: init of the classifier, "small" or "published". Learns `blocks.i.difffit_gamma{1,2}`, the biases and
    norms under their own names, and the head.
    """

    def __init__(
        self, backbone: ImageTower, classes: Sequence[str], *, drop_path: float = 0.0, head_init: str = "small"
    ):
        super().__init__(backbone, classes)
        self.head = Head(backbone.feature_dim, len(classes), head_init)
        self.blocks = nn.ModuleList(nn.Module() for _ in block_views(backbone, "DiffFit"))
        for block in self.blocks:
            for name in ("difffit_gamma1", "difffit_gamma2"):
                block.register_parameter(name, nn.Parameter(torch.ones(backbone.width)))
        self.thaw([*biases(backbone), *layer_norms(backbone)])

    def features(self, images: Tensor) -> Tensor:
        blocks: Any = self.blocks
        changes = [{"o": Scaling(each.difffit_gamma1), "fc2": Scaling(each.difffit_gamma2)} for each in blocks]
        return changed_features(self.backbone, images, changes)

    @torch.no_grad()
    def merged(self) -> ImageTower:
        tower = copied(self.backbone)
        blocks: Any = zip(own_blocks(tower), self.blocks, strict=True)
        for block, learned in blocks:
            weights = rows(block)
            weights["o"].scale(learned.difffit_gamma1)
            weights["fc2"].scale(learned.difffit_gamma2)
        return tower
