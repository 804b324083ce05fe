"""Prompts that images choose by keys: the pool of L2P (Wang et al., CVPR 2022, arXiv:2112.08654, section 4.2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.image import run_blocks
from promptvision.errors import InputError, unknown
from promptvision.method import Method

INITS: dict[str, tuple[float, float]] = {
    "small": (-0.02, 0.02),
    "port": (-1.0, 1.0),
    "original": (0.0, 0.01),
    "coda": (0.0, 1.0),
}
"""Bounds of the uniform init of prompts: "port" is l2p-pytorch's, "original" google-research/l2p's (keys too there:
all of them point the same way, and few are ever chosen), "coda" that of L2P and DualPrompt in CODA-Prompt's code, keys
included, "small" is the size of a ViT's tokens. Keys of "small" start as the port's: their length does not count."""
HEAD_INITS = ("small", "port", "original", "torch")
KEYS = ("learned", "mean", "initial_mean")
QUERIES = ("class", "mean", "max", "mean_max")


def uniform(shape: tuple[int, ...], init: str) -> nn.Parameter:
    """Draw a tensor to learn within the bounds of one of INITS."""
    if init not in INITS:
        raise unknown("init", init, INITS)
    return nn.Parameter(torch.empty(shape).uniform_(*INITS[init]))


def class_head(features: int, classes: int, init: str) -> nn.Linear:
    """Return the linear classifier of the continual methods, `head.weight` (C, E) and `head.bias` (C,).

    `init`: the weights start from "small" N(0, 0.01), "port" N(0, 0.02), truncated, or "original" zero, and the bias
    from zero; "torch" keeps torch's own draws of both, as CODA-Prompt's code does.
    """
    if init not in HEAD_INITS:
        raise unknown("head_init", init, HEAD_INITS)
    head = nn.Linear(features, classes)
    if init == "torch":
        return head
    nn.init.zeros_(head.bias)
    if init == "small":
        nn.init.normal_(head.weight, std=0.01)
    elif init == "port":
        nn.init.trunc_normal_(head.weight, std=0.02)
    else:
        nn.init.zeros_(head.weight)
    return head


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (..., D) to length 1; zero stays zero (both official codes' `l2_normalize`)."""
    return vectors * vectors.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()


def nearest(scores: Tensor, k: int) -> Tensor:
    """Return the ids (..., k) of the k highest scores (..., M), best first; ties go to the smallest id, as in JAX."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def vote(chosen: Tensor, size: int) -> Tensor:
    """Give all images the k ids that most of them chose, most votes first: (B, k) to (B, k)."""
    ids = chosen.flatten()
    votes = ids.new_zeros(size).index_add_(0, ids, torch.ones_like(ids))  # bincount makes the host wait
    return nearest(votes, chosen.shape[1]).expand(chosen.shape[0], -1)


class PromptPool(nn.Module):
    """`prompt` (size, ..., D) with `prompt_key` (size, D).

    `key`: "learned"; "mean", that of each prompt as it is now (the original without keys); "initial_mean", that of
    each prompt as it was at the start, which nothing changes (the port without keys).
    """

    def __init__(self, shape: tuple[int, ...], key: str = "learned", init: str = "small"):
        super().__init__()
        if key not in KEYS:
            raise unknown("key", key, KEYS)
        self.prompt, self.key = uniform(shape, init), key
        if key == "learned":
            self.prompt_key = uniform((shape[0], shape[-1]), "port" if init == "small" else init)
        elif key == "initial_mean":
            self.register_buffer("prompt_key", self.prompt.detach().flatten(1, -2).mean(dim=1))

    def similarity(self, query: Tensor) -> Tensor:
        """Return the cosine of queries (B, D) with all keys, (B, size)."""
        keys = self.prompt.flatten(1, -2).mean(dim=1) if self.key == "mean" else self.prompt_key
        return unit(query) @ unit(keys).T

    @torch.no_grad()
    def share(self, old: slice, new: slice) -> None:
        """Start the prompts `new` from what `old` have learned, if the pool holds both."""
        if max(old.stop, new.stop) <= len(self.prompt):
            self.prompt[new] = self.prompt[old]


class PoolMethod(Method):
    """A method whose images choose prompts by keys; subclasses define `similarity`, `choose` and `features`."""

    backbone: ImageTower
    head: nn.Linear
    pull: float

    @abstractmethod
    def similarity(self, images: Tensor) -> Tensor:
        """Return the cosine of the images' queries with the keys, (B, size)."""

    @abstractmethod
    def choose(self, similarity: Tensor) -> Tensor:
        """Return the prompts (B, k) that images of these similarities (B, size) take in the present mode."""

    @abstractmethod
    def features(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) with prompts (B, k) of the pool into features (B, E), the input of the head."""

    def choices(self, images: Tensor) -> Tensor:
        """Return the prompts (B, k) of each image."""
        return self.choose(self.similarity(images))

    def features_of(self, images: Tensor) -> Tensor:
        return self.features(images, self.choices(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features_of(images))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy among the task's classes, less `pull` times the similarity to the chosen keys.

        That is L2P's equation 5 and DualPrompt's equation 6; the similarity is summed over an image's keys and
        averaged over images (official `reduce_sim`).
        """
        similarity = self.similarity(images)
        chosen = self.choose(similarity)
        loss = self.cross_entropy(self.head(self.features(images, chosen)), labels)
        if not self.pull:
            return loss
        return loss - self.pull * (similarity.gather(1, chosen).sum() / len(chosen))


@torch.no_grad()
def image_query(tower: ImageTower, images: Tensor, kind: str = "class") -> Tensor:
    """Return the queries (B, D) of images by the frozen tower without prompts.

    `kind`: "class", the class token after the final norm; or of the patch embeddings the "mean", the "max", or
    "mean_max", max + 2 mean.
    """
    if kind == "class":
        return tower.normalize(run_blocks(tower, images, {}, first=1))[:, 0]
    patches = tower.patchify(images)
    mean, most = patches.mean(dim=1), patches.amax(dim=1)
    return {"mean": mean, "max": most, "mean_max": most + 2 * mean}[kind]


def check_tower(tower: ImageTower) -> None:
    """Raise InputError for a backbone that has no tokens, or no class token to ask with."""
    if not tower.depth:
        raise tower.refusal()
    if not tower.prefix:
        raise InputError(f"backbone {tower.name!r} has no class token to choose prompts by; choose a ViT that has one")


def prefix_layers(chosen: Sequence[int], usual: Sequence[int], tower: ImageTower, option: str) -> tuple[int, ...]:
    """Return the blocks that get prefixes, ascending: those chosen, else those of `usual` that the tower has."""
    for layer in chosen:
        if not isinstance(layer, int) or not 0 <= layer < tower.depth:
            raise InputError(
                f"{option} names block {layer!r}; backbone {tower.name!r} has blocks 0 to {tower.depth - 1}"
            )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"{option} {list(chosen)} names a block twice")
    return tuple(sorted(chosen)) or tuple(layer for layer in usual if layer < tower.depth)
