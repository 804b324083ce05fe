"""Pools with keys per block: DualPrompt and L2P of CODA-Prompt's code (Smith et al., CVPR 2023, arXiv:2211.13218)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptvision.backbones import ImageTower
from promptvision.backbones.prefix import Prefix, prefixed_features
from promptvision.errors import InputError
from vpt.parts.pool import PoolMethod, check_tower, class_head, image_query, nearest, prefix_layers, uniform, unit


class LayerPools(PoolMethod):
    """Prefixes from a pool of every block, chosen by keys of that block: the rivals in CODA-Prompt's tables.

    Its DualPrompt (the default) trains the E-prompt of the current task; a test image takes the one of the whole pool,
    tasks to come included, whose key is nearest. Its L2P, called L2P++, has `g_length` 0 and `top_k` 5. The loss pulls
    keys by a sum over images and blocks, not by a mean; with `top_k` over all pairs of an image and the keys that any
    image of the batch chose, as in the official code, where a slip of indexing makes pairs.
    `e_layers`: blocks with pools; empty for DualPrompt's 2, 3 and 4, as far as the backbone has them. `g_layers`:
    blocks with a prompt for all tasks; empty for 0 and 1. `e_length`, `g_length`: rows of a prompt, the first half
    keys, the rest values; 0 for no G-prompts. `size`: prompts in a pool. `top_k`: prompts that an image takes, chosen
    in training too; 0 for one, in training that of the task. `pull`: weight of 1 - cosine in the loss. `init`: initial
    values of prompts and keys, "small", "port", "original" or "coda". `head_init`: init of the classifier, "small",
    "port", "original" or "torch". Learns `g_prompt` (layers, length, D), `e_prompt` (layers, size, length, D), `e_key`
    (layers, size, D) and `head.{weight, bias}`; `load_learned_state` takes the names of CODA-Prompt's code too.
    """

    no_decay = frozenset({"head.bias", "g_prompt", "e_prompt", "e_key"})
    loss_is_mean = False

    def __init__(
        self,
        backbone: ImageTower,
        classes: Sequence[str],
        *,
        e_layers: Sequence[int] = (),
        g_layers: Sequence[int] = (),
        e_length: int = 20,
        g_length: int = 6,
        size: int = 10,
        top_k: int = 0,
        pull: float = 1.0,
        init: str = "small",
        head_init: str = "small",
    ):
        super().__init__(backbone, classes)
        check_tower(backbone)
        if e_length < 2 or e_length % 2 or g_length < 0 or g_length % 2:
            raise InputError(
                f"e_length is {e_length}, g_length {g_length}; take even lengths (keys, values), 0 for no G"
            )
        if not 0 <= top_k <= size or size < 1:
            raise InputError(
                f"size is {size}, top_k {top_k}; an image takes 1 to `size` prompts, or that of its task (0)"
            )
        self.e_layers = prefix_layers(e_layers, (2, 3, 4), backbone, "e_layers")
        self.g_layers = prefix_layers(g_layers, (0, 1), backbone, "g_layers") if g_length else ()
        both = set(self.g_layers) & set(self.e_layers)
        if both:
            raise InputError(f"block {min(both)} is in g_layers and in e_layers; it takes one prompt")
        width, pools = backbone.width, len(self.e_layers)
        if self.g_layers:
            self.g_prompt = uniform((len(self.g_layers), g_length, width), init)
        self.e_prompt = uniform((pools, size, e_length, width), init)
        self.e_key = uniform((pools, size, width), "port" if init == "small" else init)
        self.head = class_head(backbone.feature_dim, len(classes), head_init)
        self.size, self.top_k, self.pull = size, top_k, pull

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        if tasks > self.size and not self.top_k:
            raise InputError(f"size is {self.size}, but the stream has {tasks} tasks: each needs its own E-prompt")
        super().start_task(task, tasks, labels)

    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of the images' queries with the keys of every block, (B, layers, size)."""
        return torch.einsum("bd,lsd->bls", unit(image_query(self.backbone, images)), unit(self.e_key))

    def choose(self, similarity: Tensor) -> Tensor:
        """Return the E-prompts (B, layers, k) of images with these similarities (B, layers, size)."""
        if self.training and not self.top_k:
            return torch.full_like(similarity[..., :1], self.task, dtype=torch.long)
        return nearest(similarity.detach(), self.top_k or 1)

    def features(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with E-prompts (B, layers, k) into features (B, E)."""
        prefixes: list[Prefix | None] = [None] * (1 + max(*self.g_layers, *self.e_layers, 0))
        for index, layer in enumerate(self.g_layers):
            keys, values = self.g_prompt[index].chunk(2)
            prefixes[layer] = (keys, values)
        for index, layer in enumerate(self.e_layers):
            keys, values = self.e_prompt[index, chosen[:, index]].chunk(2, dim=2)
            prefixes[layer] = (keys.flatten(1, 2), values.flatten(1, 2))
        return prefixed_features(self.backbone, images, prefixes)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy among the task's classes plus `pull` times the sum of 1 - cosine."""
        similarity = self.similarity(images)
        chosen = self.choose(similarity)
        loss = self.cross_entropy(self.head(self.features(images, chosen)), labels)
        if self.top_k:
            pairs = [cosines[:, ids] for cosines, ids in zip(similarity.unbind(1), chosen.unbind(1), strict=True)]
            return loss + self.pull * (1 - torch.stack(pairs)).sum()
        return loss + self.pull * (1 - similarity.gather(-1, chosen)).sum()

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the learned tensors, ours or the official ones, which are named per block: `prompt.e_p_2`."""
        found = {name.replace("last.", "head."): value for name, value in state.items() if "prompt.e_" not in name}
        found = {name: value for name, value in found.items() if "prompt.g_" not in name}
        layers = {
            "g_prompt": ("g_p", self.g_layers),
            "e_prompt": ("e_p", self.e_layers),
            "e_key": ("e_k", self.e_layers),
        }
        for ours, (theirs, blocks) in layers.items():
            names = [f"prompt.{theirs}_{layer}" for layer in blocks]
            if names and all(name in state for name in names):
                found[ours] = torch.stack([state[name] for name in names])
        super().load_learned_state(found)
