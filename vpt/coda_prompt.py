"""CODA-Prompt: prompts as attention-weighted sums of components (Smith et al., CVPR 2023, arXiv:2211.13218)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.prefix import Prefix, prefixed_features
from promptvision.errors import InputError, counted
from vpt.parts.heads import HeadMethod
from vpt.parts.pool import check_tower, class_head, image_query, prefix_layers


class CODAPrompt(HeadMethod):
    """Prefixes that are sums of components, weighted by the cosine of an image's attended query with their keys.

    Every task learns its own share of the components and uses those of earlier tasks unchanged; without a stream all
    are learned. `size`: number of components. `length`: rows of a component; the first half are keys, the rest values.
    `layers`: blocks with prefixes, from 0; empty for the paper's 0 to 4, as far as the backbone has them. `ortho`:
    weight of the penalty that keeps the rows of components, keys and attention apart (equation 8). `head_init`: init of
    the classifier, "small", "port" or "original". The classifier sees the backbone's own pooled feature.
    Learns `components` (layers, size, length, D), `component_key` and `attention` (layers, size, D), which start
    orthonormal, and `head.{weight, bias}`.
    """

    components: Tensor
    component_key: Tensor
    attention: Tensor
    no_decay = frozenset({"head.bias", "components", "component_key", "attention"})

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        size: int = 100,
        length: int = 8,
        layers: Sequence[int] = (),
        ortho: float = 0.1,
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        check_tower(backbone)
        if size < 1 or length < 2 or length % 2:
            raise InputError(f"size is {size} and length {length}; take 1 or more, and an even length (keys, values)")
        self.layers = prefix_layers(layers, range(5), backbone, "layers")
        width = backbone.width
        shapes = {"components": (length, width), "component_key": (width,), "attention": (width,)}
        for name, shape in shapes.items():
            each = [nn.init.orthogonal_(torch.empty(size, math.prod(shape))) for _ in self.layers]
            self.register_parameter(name, nn.Parameter(torch.stack(each).unflatten(-1, shape)))
        self.head = class_head(backbone.feature_dim, len(classes), head_init)
        self.size, self.ortho = size, ortho

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        if tasks > self.size:
            raise InputError(
                f"size is {self.size}, but the stream has {counted(tasks, 'task')}: each needs a component"
            )
        super().start_task(task, tasks, labels)

    def in_use(self, tensor: Tensor) -> Tensor:
        """Select (layers, M, ...) of (layers, size, ...): components of earlier tasks, detached, and the task's own."""
        share = self.size // self.tasks
        start = self.task * share
        end = self.size if self.task == self.tasks - 1 else start + share
        return torch.cat([tensor[:, :start].detach(), tensor[:, start:end]], dim=1)

    def prompts(self, query: Tensor) -> Tensor:
        """Turn queries (B, D) into prompts (layers, B, length, D): the components weighted by cos(query * A, K)."""
        attended = query[:, None] * self.in_use(self.attention)[:, None]
        keys = F.normalize(self.in_use(self.component_key), dim=-1)
        weights = torch.einsum("lbmd,lmd->lbm", F.normalize(attended, dim=-1), keys)
        return torch.einsum("lbm,lmpd->lbpd", weights, self.in_use(self.components))

    def features(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with their prefixes into features (B, E)."""
        prompts = self.prompts(image_query(self.backbone, images))
        found: list[Prefix | None] = [None] * (max(self.layers) + 1)
        for layer, prompt in zip(self.layers, prompts, strict=True):
            keys, values = prompt.chunk(2, dim=1)
            found[layer] = (keys, values)
        return prefixed_features(self.backbone, images, found)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy among the task's classes plus the orthogonality penalty."""
        return super().loss(images, labels) + self.ortho * self.penalty()

    def penalty(self) -> Tensor:
        """Return the mean square of B B^T - 1 of the rows B in use, summed over layers, components, keys, attention."""
        groups = (self.components, self.component_key, self.attention)
        each = [rows @ rows.T for tensor in groups for rows in self.in_use(tensor).flatten(2)]
        return torch.stack([(gram - torch.eye(len(gram), device=gram.device)).square().mean() for gram in each]).sum()
