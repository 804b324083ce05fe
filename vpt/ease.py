"""EASE: an AdaptFormer per task, and prototypes in all their subspaces (Zhou et al., CVPR 2024, arXiv:2403.12030)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError
from vpt.parts.attach import attached, mlp_blocks, mlp_linears
from vpt.parts.beside import placed
from vpt.parts.bottleneck import Bottleneck
from vpt.parts.closed_form import ClosedForm
from vpt.parts.prototypes import CosineHead, cosines, set_means


class EASE(ClosedForm):
    """A set of adapters for each task, tuned with its own cosine head, and class means in the subspace of each.

    A class that is older than a subspace has no images to be encoded in it. Its mean there is complemented: a sum of
    the means of the classes that are not older, with weights softmax of the cosines of both in the subspace of the
    older class. Logits are cosines in the subspace of a class's own task, plus those in the subspaces of all others.
    `alpha`: total weight of the subspaces of other tasks, divided by the number of tasks before the current one.
    `beta`: weight of the subspace of the backbone without adapters; 0 leaves it out. `bottleneck`: width of the
    adapters, AdaptFormer's. `scale`: factor of their output. `dropout`: dropout before their second layer; published
    is 0.1.
    Learns `adapters.t.i.adapter_{down,up}sample.{weight, bias}` and `prototypes` (C, S, E) for S subspaces, and keeps
    `task_of` (C,), the task of each class, -1 for one to come.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        bottleneck: int = 64,
        scale: float = 0.1,
        dropout: float = 0.0,
        alpha: float = 0.1,
        beta: float = 0.0,
    ):
        super().__init__(backbone, classes)
        if bottleneck < 1 or not 0 <= dropout < 1:
            raise InputError(f"bottleneck is {bottleneck} and dropout {dropout}; take 1 or more, and 0 to below 1")
        if not mlp_blocks(backbone):
            raise InputError(f"backbone {backbone.name!r} has no blocks with an MLP to adapt; choose a transformer")
        self.alpha, self.beta, self.first = alpha, beta, int(beta != 0)
        self.seed = int(torch.randint(2**31, ()))
        self.adapters = nn.ModuleList()
        self.register_buffer("prototypes", torch.zeros(len(classes), self.first, backbone.feature_dim))
        self.register_buffer("task_of", torch.full((len(classes),), -1))
        self.start_task(0, 1)

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        """Freeze the adapters of earlier tasks, and add those of this one, which change nothing at first, and a head.

        The draws depend on the task and on what the constructor drew: a stream that is resumed repeats them.
        """
        super().start_task(task, tasks, labels)
        for number in range(len(self.adapters), task + 1):
            self.adapters.requires_grad_(False)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + number)
                made = nn.ModuleList(self._bottleneck(block) for block in mlp_blocks(self.backbone))
                self.head = CosineHead(self.backbone.feature_dim, len(self.classes)).to(self.prototypes)
            self.adapters.append(made.to(self.prototypes))
            self.prototypes = F.pad(self.prototypes, (0, 0, 0, 1))

    def _bottleneck(self, block: nn.Module) -> Bottleneck:
        """Return an adapter of a block, whose output is zero at first."""
        ours, width = self.options, mlp_linears(block)[-1].out_features
        made = Bottleneck(width, ours["bottleneck"], scale=ours["scale"], dropout=ours["dropout"])
        for start in (made.adapter_upsample.weight, made.adapter_upsample.bias, made.adapter_downsample.bias):
            nn.init.zeros_(start)
        return made

    def features(self, images: Tensor, task: int | None = None) -> Tensor:
        """Encode images into features (B, E) with the adapters of a task, the current one unless another is given, or
        without any for -1."""
        task = self.task if task is None else task
        if task < 0:
            return self.backbone(images)
        draws = self.training and self.options["dropout"] > 0
        adapters: Any = self.adapters[task]
        blocks = zip(mlp_blocks(self.backbone), adapters, strict=True)
        hooks = (placed(block, "mlp", "stream", each, draws) for block, each in blocks)
        with attached(chain.from_iterable(hooks)):
            return self.backbone(images)

    def represent(self, images: Tensor) -> Tensor:
        """Encode images into features (B, S, E) in all subspaces."""
        return torch.stack([self.features(images, task) for task in range(-self.first, self.task + 1)], dim=1)

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Set the means of a task, and complement those of earlier classes in the subspaces of later tasks."""
        set_means(self.prototypes, features, labels)
        self.task_of[labels], means = self.task, self.prototypes
        pairs = [(task, later) for task in range(self.task) for later in range(task + 1, self.task + 1)]
        with torch.autocast(features.device.type, enabled=False):
            for task, later in pairs:
                old, newer = self.task_of == task, self.task_of >= later
                here, there = self.first + task, self.first + later
                shares = cosines(means[old, here], means[newer, here]).softmax(dim=1)
                means[old, there] = shares @ means[newer, there]

    def classify(self, images: Tensor) -> Tensor:
        """Return the cosines (B, C) with the prototypes, summed over subspaces with their weights."""
        features, known = self.represent(images), self.task_of >= 0
        weights = self.prototypes.new_full(self.prototypes.shape[:2], self.alpha / max(1, self.task))
        weights[:, : self.first] = self.beta
        weights[known, self.first + self.task_of[known]] = 1.0
        pairs = zip(features.unbind(1), self.prototypes.unbind(1), weights.unbind(1), strict=True)
        return torch.stack([cosines(own, rows) * share for own, rows, share in pairs]).sum(dim=0)
