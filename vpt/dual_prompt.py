"""DualPrompt: a prompt for all tasks and one for each (Wang et al., ECCV 2022, arXiv:2204.04799)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.prefix import Prefix, prefixed_features
from promptvision.errors import InputError, counted
from vpt.parts.pool import (
    PoolMethod,
    PromptPool,
    check_tower,
    class_head,
    image_query,
    nearest,
    prefix_layers,
    uniform,
    vote,
)


class DualPrompt(PoolMethod):
    """A G-prompt for all tasks in the first blocks and an E-prompt per task in the next, both as keys and values.

    Training takes the E-prompt of the current task and pulls its key to the images' queries; a test image takes the
    E-prompt whose key is nearest, of the tasks seen so far. `g_layers`: blocks with G-prompts, from 0; empty for the
    paper's 0 and 1. `e_layers`: blocks with E-prompts; empty for the paper's 2, 3 and 4, as far as the backbone has
    them. `g_length`, `e_length`: keys, and as many values, per block. `size`: number of E-prompts, at least one per
    task. `pull`: weight of the cosine of key and queries in the loss (equation 6). `shared_pool`: the E-prompt of a
    task starts from that of the task before. `whole_pool`: a test image also searches the E-prompts of tasks to come,
    as published. `batchwise_test`: a test batch takes the E-prompt that most of its images chose, as published:
    accuracy gains from batches that hold one task only. `port_reshape`: E-prompts are read as dualprompt-pytorch reads
    them: of the list of the batch's keys and then its values, image b gets entry 2b as keys and 2b + 1 as values, so
    that results depend on what shares the batch; only to compare with its numbers. `init`, `head_init`: initial values,
    "small", "port" or "original". The classifier sees the backbone's own pooled feature. Learns `g_prompt` (layers, 2,
    length, D), `e_prompt.prompt` (size, layers, 2, length, D), `e_prompt.prompt_key` (size, D) and `head.{weight,
    bias}`; index 0 of the 2 are keys, 1 values. `load_learned_state` takes the shapes of dualprompt-pytorch too.
    """

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
        whole_pool: bool = False,
        batchwise_test: bool = False,
        port_reshape: bool = False,
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
        self.pull, self.shared_pool = pull, shared_pool
        self.whole_pool, self.batchwise_test = whole_pool, batchwise_test
        self.port_reshape, self.loss_is_mean = port_reshape, not port_reshape

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        if tasks > self.size:
            raise InputError(
                f"size is {self.size}, but the stream has {counted(tasks, 'task')}: each needs its own E-prompt"
            )
        super().start_task(task, tasks, labels)
        if self.shared_pool and task > 0:
            self.e_prompt.share(slice(task - 1, task), slice(task, task + 1))

    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of the images' queries with the keys, (B, size)."""
        return self.e_prompt.similarity(image_query(self.backbone, images))

    def choose(self, similarity: Tensor) -> Tensor:
        """Return the E-prompt (B, 1) of images with these similarities (B, size)."""
        if self.training:
            return torch.full((similarity.shape[0], 1), self.task, device=similarity.device)
        known = self.size if self.whole_pool else self.task + 1
        chosen = nearest(similarity.detach()[:, :known], 1)
        return vote(chosen, self.size) if self.batchwise_test else chosen

    def features(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with E-prompts (B, 1) into features (B, E).

        The G-prompts' keys and values are (P, D) for all images, those of the E-prompts (B, P, D).
        """
        prefixes: list[Prefix | None] = [None] * (1 + max(*self.g_layers, *self.e_layers, 0))
        for layer, (keys, values) in zip(self.g_layers, self.g_prompt, strict=True):
            prefixes[layer] = (keys, values)
        own = self.e_prompt.prompt[chosen[:, 0]].transpose(0, 1)
        if self.port_reshape:
            own = own.transpose(1, 2).reshape(own.shape)
        for layer, pair in zip(self.e_layers, own, strict=True):
            prefixes[layer] = (pair[:, 0], pair[:, 1])
        return prefixed_features(self.backbone, images, prefixes)

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the learned tensors, ours or the port's: g_prompt (layers, 2, length, heads, D / heads) and so on."""
        shaped = dict(state)
        if "g_prompt" in state and state["g_prompt"].dim() == 5:
            shaped["g_prompt"] = state["g_prompt"].flatten(-2)
        if "e_prompt.prompt" in state and state["e_prompt.prompt"].dim() == 6:
            shaped["e_prompt.prompt"] = state["e_prompt.prompt"].flatten(-2).permute(2, 0, 1, 3, 4)
        super().load_learned_state(shaped)
