"""Methods that tune a ViT on the first task of a stream only, and fit a classifier of its features to every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptvision.addition import Addition
from promptvision.backbones import ImageTower
from vpt.parts.closed_form import ClosedForm
from vpt.parts.prototypes import CosineHead


class FirstTask(Addition, ClosedForm):
    """A host that is tuned on the first task, and a classifier in closed form that knows every task.

    `host`: the method that is tuned on the first task, adapter, prompt, lora or ssf, whose options are options here
    too; for ran_pac also "none", which fits frozen features.
    `head_init`: classifier that the host is tuned with and that is dropped after it, "cosine", whose logits are cosines
    times a learned scale, as published, or the host's own with "small" or "published" initial values.
    """

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        host: str = "adapter",
        head_init: str = "cosine",
        **of_host: Any,
    ):
        own = {} if head_init == "cosine" or not self.host_of else {"head_init": head_init}
        super().__init__(backbone, classes, **own, **of_host)
        self.frozen_images = not self.host_of
        if self.host_of and not own:
            self.head = CosineHead(backbone.feature_dim, len(classes))
        self.register_buffer("task_of", torch.full((len(classes),), -1))

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) if self.host_of else self.backbone.as_features(images)

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        """Freeze the host in all tasks except the first, so that they train nothing."""
        super().start_task(task, tasks, labels)
        first = task == 0
        for name, parameter in self.named_parameters():
            if not name.startswith("backbone."):
                parameter.requires_grad_(first)
