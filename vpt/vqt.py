"""Visual Query Tuning: queries read what enters a frozen ViT's blocks (Tu et al., CVPR 2023, arXiv:2212.03220)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.image import parted
from promptvision.backbones.prefix import known_block
from promptvision.errors import InputError, check_share
from vpt.parts.heads import Head, HeadMethod
from vpt.prompt import init_bound


class VQT(HeadMethod):
    """Learned queries at every block, whose answers join the feature; the tokens of the frozen ViT do not see them.

    The queries of block l attend to the tokens that enter it and pass through the rest of the block; the tokens are
    those of the plain backbone, so that no gradient flows through them, and the cache of features can hold them.
    `num_queries`: queries q of each block. `dropout`: dropout of the queries, drawn for each image; the official runs
    have 0.1. `pooled`: a block's answers are averaged, (B, D). `weighted`: they are added with learned weights, which
    start at 1; else they are joined, (B, q D). `normalized`: the feature and the answers of each block are scaled to
    length 1 before they are joined. `head_init`: init of the classifier, "small" or "published".

    Learns `query_prompt_embeddings` (blocks, q, D), with `weighted` `combine_params` (blocks, q), and
    `head.last_layer.{weight, bias}` on the feature of the backbone and all answers.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        num_queries: int = 1,
        dropout: float = 0.0,
        pooled: bool = False,
        weighted: bool = False,
        normalized: bool = True,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        if num_queries < 1:
            raise InputError(f"num_queries is {num_queries}; each block needs at least one query")
        check_share("dropout", dropout)
        if pooled and weighted:
            raise InputError("answers are averaged (pooled) or added with weights (weighted), not both; set one")
        if not backbone.depth:
            raise backbone.refusal()
        for index in range(backbone.depth):
            known_block(backbone, index, "queries")
        bound = init_bound(backbone.patch_size, backbone.width)
        queries = torch.empty(backbone.depth, num_queries, backbone.width).uniform_(-bound, bound)
        self.query_prompt_embeddings = nn.Parameter(queries)
        if weighted:
            self.combine_params = nn.Parameter(torch.ones(backbone.depth, num_queries))
        self.query_dropout = nn.Dropout(dropout)
        each = backbone.width * (1 if pooled or weighted else num_queries)
        self.head = Head(backbone.feature_dim + backbone.depth * each, len(classes), head_init)

    @property
    def kept_states(self) -> Sequence[int]:
        return range(self.backbone.depth)

    def features(self, images: Tensor) -> Tensor:
        """Join the features of images (B, 3, H, W), or of rows of `entered`, and the answers of all blocks."""
        tower, answers = self.backbone, list[Tensor]()

        def ask(tokens: Tensor, index: int) -> Tensor:
            answers.append(self._answer(index, tokens))
            return tokens

        if images.dim() == 2:
            states, feature = parted(tower, images)
            for index, tokens in enumerate(states.chunk(tower.depth, dim=1)):
                ask(tokens, index)
        else:
            edits = {index: partial(ask, index=index) for index in range(tower.depth)}
            feature = tower.pool(tower.run(tower.enter(tower.embed(images)), edits, first=tower.pooled))
        parts = [feature.to(answers[0].dtype), *answers]
        return torch.cat([F.normalize(each, dim=-1) for each in parts] if self.options["normalized"] else parts, dim=-1)

    def _answer(self, index: int, tokens: Tensor) -> Tensor:
        """Return what the queries of a block read in the tokens (B, N, D) that enter it, (B, q D) or (B, D)."""
        view, queries = known_block(self.backbone, index, "queries"), self.query_prompt_embeddings[index]
        if self.training and self.options["dropout"]:
            queries = self.query_dropout(queries.expand(tokens.shape[0], -1, -1))
        queries = queries.to(tokens.dtype).expand(tokens.shape[0] if queries.dim() == 3 else 1, -1, -1)
        read = view.ask(queries, tokens)
        if self.options["pooled"]:
            return read.mean(dim=1)
        if self.options["weighted"]:
            return (read * self.combine_params[index][:, None]).sum(dim=1)
        return read.flatten(1)
