"""Prompts that images choose by keys: the pool of L2P (Wang et al., CVPR 2022, arXiv:2112.08654, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.errors import InputError, unknown

INITS: dict[str, tuple[float, float]] = {"small": (-0.02, 0.02), "port": (-1.0, 1.0), "original": (0.0, 0.01)}
"""Bounds of the uniform start of prompts: "port" is l2p-pytorch's, "original" google-research/l2p's (keys too there:
all of them point the same way, and few are ever chosen), "small" is the size of a ViT's tokens. Keys of "small" start
as the port's: their length does not count."""

KEYS = ("learned", "mean", "initial_mean")
QUERIES = ("class", "mean", "max", "mean_max")


def uniform(shape: tuple[int, ...], init: str) -> nn.Parameter:
    """A tensor to learn, from one of INITS."""
    if init not in INITS:
        raise unknown("init", init, INITS)
    return nn.Parameter(torch.empty(shape).uniform_(*INITS[init]))


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) at length 1; zero stays zero (both official codes' `l2_normalize`)."""
    return vectors * vectors.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()


def nearest(scores: Tensor, k: int) -> Tensor:
    """The k highest of scores (..., M), best first, ids (..., k); of equal ones the smallest id, as JAX has it."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def vote(chosen: Tensor, size: int) -> Tensor:
    """The k ids that most images chose, most votes first, for all of them: (B, k) to (B, k)."""
    votes = torch.bincount(chosen.flatten(), minlength=size)
    return nearest(votes, chosen.shape[1]).expand(len(chosen), -1)


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
            self.register_buffer("prompt_key", self._mean().detach().clone())

    def __len__(self) -> int:
        return len(self.prompt)

    def keys(self) -> Tensor:
        """(size, D)."""
        return self._mean() if self.key == "mean" else self.prompt_key

    def similarity(self, query: Tensor) -> Tensor:
        """Cosine of queries (B, D) with all keys, (B, size)."""
        return unit(query) @ unit(self.keys()).T

    @torch.no_grad()
    def share(self, old: slice, new: slice) -> None:
        """Start the prompts `new` from what `old` have learned, if the pool holds both."""
        if max(old.stop, new.stop) <= len(self):
            self.prompt[new] = self.prompt[old]

    def _mean(self) -> Tensor:
        return self.prompt.flatten(1, -2).mean(dim=1)


@torch.no_grad()
def class_query(tower: ImageTower, images: Tensor) -> Tensor:
    """(B, D): the class token of the frozen tower without prompts, after the final norm."""
    tokens = tower.enter(tower.embed(images))
    for block in tower.blocks:
        tokens = block(tokens)
    return tower.normalize(tokens[:, :1])[:, 0]


@torch.no_grad()
def patch_query(tower: ImageTower, images: Tensor, kind: str) -> Tensor:
    """(B, D), from the patch embeddings: their "mean", their "max", or "mean_max", max + 2 mean."""
    patches = tower.patchify(images)
    mean, most = patches.mean(dim=1), patches.amax(dim=1)
    return {"mean": mean, "max": most, "mean_max": most + 2 * mean}[kind]


def check_tower(tower: ImageTower) -> None:
    """Refuse a backbone that has no tokens, or no class token to ask with."""
    if not tower.depth:
        raise tower.refusal()
    if not tower.prefix:
        raise InputError(f"backbone {tower.name!r} has no class token to choose prompts by; choose a ViT that has one")


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)


def _small(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.01)


def _port(layer: nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02)


HEADS = {"small": _small, "port": _port, "original": _zero}
"""How a classifier's weights start, N(0, 0.01), N(0, 0.02) or zero; its bias is zero."""


def class_head(features: int, classes: int, init: str) -> nn.Linear:
    """The linear classifier of the continual methods: `head.weight` (C, E), `head.bias` (C,)."""
    if init not in HEADS:
        raise unknown("head_init", init, HEADS)
    head = nn.Linear(features, classes)
    nn.init.zeros_(head.bias)
    HEADS[init](head)
    return head


def prefix_layers(chosen: Sequence[int], usual: Sequence[int], tower: ImageTower, option: str) -> tuple[int, ...]:
    """The blocks that get prefixes: those chosen, else those of `usual` that the tower has; ascending."""
    for layer in chosen:
        if not isinstance(layer, int) or not 0 <= layer < tower.depth:
            raise InputError(
                f"{option} names block {layer!r}; backbone {tower.name!r} has blocks 0 to {tower.depth - 1}"
            )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"{option} {list(chosen)} names a block twice")
    return tuple(sorted(chosen)) or tuple(layer for layer in usual if layer < tower.depth)
