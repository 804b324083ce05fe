"""DualPrompt: a prompt for all tasks and one for each (Wang et al., ECCV 2022, arXiv:2204.04799)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.prefix import Prefix, prefixed_features
from promptvision.errors import InputError
from promptvision.method import Method
from vpt.l2p import pulled
from vpt.parts.pool import PromptPool, check_tower, class_head, class_query, nearest, prefix_layers, uniform, vote


class DualPrompt(Method):
    """A G-prompt for all tasks in the first blocks and an E-prompt per task behind, both as keys and values.

    Training takes the E-prompt of the task at hand and pulls its key to the images' queries by `pull` times the
    cosine (equation 6); a test image takes the E-prompt whose key is nearest, of the tasks seen so far.
    `g_layers`, `e_layers`: blocks, from 0; empty for the paper's 0, 1 and 2, 3, 4, as far as the backbone has them.
    `g_length`, `e_length`: keys, and as many values, per block. `size`: E-prompts, at least one per task.
    `shared_pool`: the E-prompt of a task starts from that of the task before. `batchwise_test`: a test batch takes
    the E-prompt that most of its images chose, as published: accuracy gains from batches that hold one task only.
    `init`, `head_init`: "small", "port" or "original" start. The classifier sees the backbone's own pooled feature.
    Learns `g_prompt` (layers, 2, length, D), `e_prompt.prompt` (size, layers, 2, length, D), `e_prompt.prompt_key`
    (size, D) and `head.{weight, bias}`; index 0 of the 2 are keys, 1 values.
    """

    backbone: ImageTower
    no_decay = frozenset({"head.bias", "e_prompt.prompt", "e_prompt.prompt_key"})

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        g_layers: Sequence[int] = (),
        e_layers: Sequence[int] = (),
        g_length: int = 5,
        e_length: int = 5,
        size: int = 10,
        pull: float = 1.0,
        shared_pool: bool = False,
        batchwise_test: bool = False,
        init: str = "small",
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        check_tower(backbone)
        if min(g_length, e_length, size) < 1:
            raise InputError(f"g_length {g_length}, e_length {e_length} and size {size}: each must be at least 1")
        self.g_layers = prefix_layers(g_layers, (0, 1), backbone, "g_layers")
        self.e_layers = prefix_layers(e_layers, (2, 3, 4), backbone, "e_layers")
        both = set(self.g_layers) & set(self.e_layers)
        if both:
            raise InputError(f"block {min(both)} is in g_layers and in e_layers; it takes one prompt")
        width = backbone.width
        self.g_prompt = uniform((len(self.g_layers), 2, g_length, width), init)
        self.e_prompt = PromptPool((size, len(self.e_layers), 2, e_length, width), init=init)
        self.head = class_head(backbone.feature_dim, len(classes), head_init)
        self.size = size
        self.pull, self.shared_pool, self.batchwise_test = pull, shared_pool, batchwise_test

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        if tasks > len(self.e_prompt):
            raise InputError(
                f"size is {len(self.e_prompt)}, but the stream has {tasks} tasks: each needs its own E-prompt"
            )
        super().start_task(task, tasks, labels)
        if self.shared_pool and task > 0:
            self.e_prompt.share(slice(task - 1, task), slice(task, task + 1))

    def similarity(self, images: Tensor) -> Tensor:
        """Cosine of the images' queries with the keys, (B, size)."""
        return self.e_prompt.similarity(class_query(self.backbone, images))

    def choose(self, similarity: Tensor) -> Tensor:
        """The E-prompt (B, 1) of images with these similarities (B, size)."""
        if self.training:
            return torch.full((len(similarity), 1), self.task, device=similarity.device)
        chosen = nearest(similarity.detach()[:, : self.task + 1], 1)
        return vote(chosen, len(self.e_prompt)) if self.batchwise_test else chosen

    def choices(self, images: Tensor) -> Tensor:
        """The E-prompt (B, 1) of each image."""
        return self.choose(self.similarity(images))

    def prefixes(self, chosen: Tensor) -> list[Prefix | None]:
        """Keys and values for each block up to the last that has any: (P, D) shared, (B, P, D) of an image's task."""
        found: list[Prefix | None] = [None] * (1 + max(*self.g_layers, *self.e_layers, 0))
        for layer, (keys, values) in zip(self.g_layers, self.g_prompt, strict=True):
            found[layer] = (keys, values)
        own = self.e_prompt.prompt[chosen[:, 0]]
        for index, layer in enumerate(self.e_layers):
            found[layer] = (own[:, index, 0], own[:, index, 1])
        return found

    def features(self, images: Tensor, chosen: Tensor) -> Tensor:
        """(B, 3, H, W) with E-prompts (B, 1) to (B, E)."""
        return prefixed_features(self.backbone, images, self.prefixes(chosen))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images, self.choices(images)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy among the task's classes, less `pull` times the cosine of queries and the task's key."""
        similarity = self.similarity(images)
        chosen = self.choose(similarity)
        loss = F.cross_entropy(self.for_task(self.head(self.features(images, chosen))), labels)
        return loss - self.pull * pulled(similarity, chosen) if self.pull else loss
