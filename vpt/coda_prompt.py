"""CODA-Prompt: prompts as attention-weighted sums of components (Smith et al., CVPR 2023, arXiv:2211.13218)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptvision.backbones import ImageTower
from promptvision.backbones.prefix import Prefix, prefixed_features
from promptvision.errors import InputError
from vpt.parts.heads import HeadMethod
from vpt.parts.pool import check_tower, class_head, image_query, prefix_layers


class CODAPrompt(HeadMethod):
    """Prefixes that are sums of components, weighted by the cosine of an image's attended query with their keys.

    Every task learns its own share of the components, size / tasks rounded down, and uses those of earlier tasks
    unchanged; without a stream all are learned. A task's components are drawn when it begins, orthogonal to those
    before (Gram-Schmidt), as in the authors' code since their paper; those of later tasks are zero until then.
    `size`: number of components. `length`: rows of a component; the first half are keys, the rest values. `layers`:
    blocks with prefixes, from 0; empty for the paper's 0 to 4, as far as the backbone has them. `ortho`: weight of the
    penalty that keeps the rows of components, keys and attention apart (equation 8); the released commands take 0.
    `head_init`: init of the classifier, "small", "port", "original" or "torch". The classifier sees the backbone's own
    pooled feature. Learns `components` (layers, size, length, D), `component_key` and `attention` (layers, size, D),
    and `head.{weight, bias}`; `load_learned_state` takes the names of the authors' code too.
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
            self.register_parameter(name, nn.Parameter(torch.zeros(len(self.layers), size, *shape)))
        self.head = class_head(backbone.feature_dim, len(classes), head_init)
        self.size, self.ortho = size, ortho
        self.seed = int(torch.randint(2**31, ()))
        self.draw()

    def start_task(self, task: int, tasks: int, labels: Sequence[int] = ()) -> None:
        if tasks > self.size:
            raise InputError(f"size is {self.size}, but the stream has {tasks} tasks: each needs a component")
        super().start_task(task, tasks, labels)
        self.draw()

    @property
    def own(self) -> slice:
        """The components of the current task."""
        share = self.size // self.tasks
        return slice(self.task * share, (self.task + 1) * share)

    @torch.no_grad()
    def draw(self) -> None:
        """Draw the components of the current task, unless it has some, e.g. loaded ones; the first has them already.

        The draws depend on the task and on what the constructor drew: a stream that is resumed repeats them.
        """
        generator, own = torch.Generator().manual_seed(self.seed + self.task), self.own
        for tensor in (self.components, self.component_key, self.attention):
            rows = tensor.flatten(2)
            if not self.task:
                rows[:, own.stop :] = 0
            if not rows[:, own].any():
                rows[:, own] = orthogonal_rows(rows[:, : own.start], own.stop - own.start, generator)

    def in_use(self, tensor: Tensor) -> Tensor:
        """Select (layers, M, ...) of (layers, size, ...): components of earlier tasks, detached, and the task's own."""
        return torch.cat([tensor[:, : self.own.start].detach(), tensor[:, self.own]], dim=1)

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
        loss = super().loss(images, labels)
        return loss + self.ortho * self.penalty() if self.ortho else loss

    def penalty(self) -> Tensor:
        """Return the mean square of B B^T - 1 of the rows B in use, summed over layers, components, keys, attention."""
        groups = (self.components, self.component_key, self.attention)
        each = [rows @ rows.T for tensor in groups for rows in self.in_use(tensor).flatten(2)]
        return torch.stack([(gram - torch.eye(len(gram), device=gram.device)).square().mean() for gram in each]).sum()

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the learned tensors, ours or the authors', who name them per block: `prompt.e_p_0`, `last.weight`."""
        found = {name.replace("last.", "head."): value for name, value in state.items() if ".e_" not in name}
        for ours, theirs in {"components": "p", "component_key": "k", "attention": "a"}.items():
            names = [f"prompt.e_{theirs}_{layer}" for layer in self.layers]
            if all(name in state for name in names):
                found[ours] = torch.stack([state[name] for name in names])
        super().load_learned_state(found)


def orthogonal_rows(old: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` unit rows (layers, count, D): normal draws less their projections on all rows before, `old` first.

    As in the official code, old rows (layers, M, D) need not be orthogonal to each other, so that new ones are
    orthogonal to them as far as they are. Of more rows than D, the rest are the draws themselves.
    """
    layers, first, width = old.shape
    rows = torch.cat([old, old.new_zeros(layers, count, width)], dim=1)
    for index in range(first, first + count):
        row, before = torch.randn(layers, width, generator=generator).to(old), rows[:, :index]
        if index < width:
            weights = torch.einsum("ld,lmd->lm", row, before) / before.square().sum(dim=-1).clamp(min=1e-8)
            row = row - torch.einsum("lm,lmd->ld", weights, before)
        rows[:, index] = F.normalize(row, dim=-1)
    return rows[:, first:]
