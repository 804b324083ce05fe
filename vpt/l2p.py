"""Learning to Prompt for continual learning (Wang et al., CVPR 2022, arXiv:2112.08654)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.image import prompted_tokens
from promptvision.errors import InputError, unknown
from vpt.parts.pool import QUERIES, PoolMethod, PromptPool, check_tower, class_head, image_query, nearest, vote

HEAD_TYPES = ("prompt", "token+prompt", "token", "gap")
POSITIONS = ("class", "none")


class L2P(PoolMethod):
    """A pool of prompts with keys: every image takes the `top_k` prompts whose keys are nearest to its query.

    `size`: number of prompts in the pool. `length`: tokens of a prompt. `top_k`: number of prompts that an image takes.
    `pull`: weight of the chosen keys' similarity in the loss. `batchwise`: in training the whole batch takes the
    prompts that most of its images chose. `batchwise_test`: the same in evaluation, as published: accuracy then gains
    from batches that hold one task only. `prompt_mask`: task t trains prompts t k to t k + k - 1, if the pool has them.
    `shared_pool`: the prompts of a task, numbered likewise, start from those of the task before. `head_type`: the
    classifier's input after the final norm: "prompt", the mean of the prompts' outputs; "token", the class token's;
    "token+prompt", the mean of both; "gap", that of all tokens. `query`: "class", the class token of the backbone
    without prompts, or of its patch embeddings the "mean", "max" or "mean_max". `key`: "learned", "mean" or
    "initial_mean" (`PromptPool`). `position`: prompts get the "class" token's position (l2p-pytorch) or "none"
    (google-research/l2p). `init`, `head_init`: initial values, "small", "port" or "original". Learns `prompt.prompt`
    (size, length, D), `prompt.prompt_key` (size, D) and `head.{weight, bias}`.
    """

    no_decay = frozenset({"head.bias"})

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        size: int = 10,
        length: int = 5,
        query: str = "class",
        key: str = "learned",
        top_k: int = 5,
        pull: float = 0.1,
        batchwise: bool = False,
        batchwise_test: bool = False,
        prompt_mask: bool = False,
        shared_pool: bool = False,
        head_type: str = "prompt",
        position: str = "none",
        init: str = "small",
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        check_tower(backbone)
        for name, value, choices in (
            ("head_type", head_type, HEAD_TYPES),
            ("query", query, QUERIES),
            ("position", position, POSITIONS),
        ):
            if value not in choices:
                raise unknown(name, value, choices)
        if length < 1 or not 1 <= top_k <= size:
            raise InputError(f"size {size}, length {length} and top_k {top_k}: an image takes 1 to `size` prompts")
        self.size = size
        self.prompt = PromptPool((size, length, backbone.width), key, init)
        self.head = class_head(backbone.feature_dim, len(classes), head_init)
        self.top_k, self.pull, self.head_type = top_k, pull, head_type
        self.batchwise, self.batchwise_test = batchwise, batchwise_test
        self.loss_is_mean = not batchwise
        self.prompt_mask, self.shared_pool = prompt_mask, shared_pool
        self.query, self.position = query, position

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        super().start_task(task, tasks, labels)
        if self.shared_pool and task > 0:
            k = self.top_k
            self.prompt.share(slice((task - 1) * k, task * k), slice(task * k, (task + 1) * k))

    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of the images' queries with the keys, (B, size)."""
        return self.prompt.similarity(image_query(self.backbone, images, self.query))

    def choose(self, similarity: Tensor) -> Tensor:
        """Return the prompts (B, k) that images of these similarities (B, size) take in the present mode."""
        first, end = self.task * self.top_k, (self.task + 1) * self.top_k
        if self.training and self.prompt_mask and end <= self.size:
            return torch.arange(first, end, device=similarity.device).expand(similarity.shape[0], -1)
        chosen = nearest(similarity.detach(), self.top_k)
        together = self.batchwise if self.training else self.batchwise_test
        return vote(chosen, self.size) if together else chosen

    def features(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with prompts (B, k) of the pool into features (B, E), the classifier's input."""
        tower = self.backbone
        prompts = self.prompt.prompt[chosen].flatten(1, 2)
        if self.position == "class":
            prompts = prompts + tower.class_position
        first, last = tower.prefix, tower.prefix + prompts.shape[1]
        wanted = {"token": 1, "gap": None}.get(self.head_type, last)
        tokens = tower.normalize(prompted_tokens(tower, images, prompts, first=wanted))
        seen = {
            "token": tokens[:, :1],
            "prompt": tokens[:, first:last],
            "token+prompt": torch.cat([tokens[:, :1], tokens[:, first:last]], dim=1),
            "gap": tokens,
        }
        return tower.project(seen[self.head_type].mean(dim=1))
