"""Tip-Adapter: training-free adaption of CLIP (Zhang et al., ECCV 2022, arXiv:2207.09519)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coop.parts.teacher import all_features
from coop.zero_shot import ZeroShot
from promptvision.backbones import CLIP
from promptvision.errors import InputError
from promptvision.method import Batches

BETAS, ALPHAS = 200, 20
"""Number of values of beta and alpha to try, in even steps from 0.1 (gaopengcuhk/Tip-Adapter, search_step)."""
AT_ONCE = 2**20
"""About how many logits a search compares at once."""


def cache_logits(affinity: Tensor, values: Tensor, beta: Tensor | float) -> Tensor:
    """Turn cosines (B, N) with the cached images and their one-hot labels (N, C) into votes (B, C) (equation 4)."""
    return torch.exp(-beta * (1 - affinity)) @ values


def search(
    zero_shot: Tensor, affinity: Tensor, values: Tensor, labels: Tensor, ends: Sequence[float]
) -> tuple[float, float]:
    """Find (alpha, beta) with the best accuracy of `zero_shot` (B, C) + alpha * votes; the first of equals.

    `ends`: beta runs from 0.1 up to, but not including, the first; alpha to the second.
    """
    betas, alphas = (
        [0.1 + index * (end - 0.1) / count for index in range(count)]
        for end, count in zip(ends, (BETAS, ALPHAS), strict=True)
    )
    factors = torch.tensor(alphas, dtype=zero_shot.dtype, device=zero_shot.device)[:, None, None]
    parts = factors.split(max(1, AT_ONCE // zero_shot.numel()))
    best, found = -1, (0.1, 0.1)
    for beta in betas:
        votes = cache_logits(affinity, values, beta)
        hits = torch.cat([((zero_shot + part * votes).argmax(dim=2) == labels).sum(dim=1) for part in parts]).tolist()
        if max(hits) > best:
            best = max(hits)
            found = alphas[hits.index(best)], beta
    return found


class TipAdapter(ZeroShot):
    """Zero-shot logits plus alpha times a vote of the training images: exp(-beta (1 - cosine)) of each one's class.

    `templates`, `ensemble`, `texts` as in ZeroShot. `alpha`: weight of the vote. `beta`: sharpness of the vote.
    `search`: largest beta and alpha of a search on the validation images; an empty list keeps the given values.
    `views`: augmented views of an image whose features are averaged for its key (published: 10), 0 for the image
    without augmentation. `logit_scale`: factor of the zero-shot cosine, 0 for the backbone's own (published: 100).
    Learns `keys` (N, E), the normalised mean features of the images, `values` (N, C), `alpha` and `beta`. The images
    vote for their own classes, not for new ones.
    """

    new_classes = False
    learns_keys = False
    remembered = frozenset({"keys", "values"})
    keys: Tensor
    values: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        templates: Sequence[str] = (), ensemble: str = "", texts: str = "",
        alpha: float = 1.17, beta: float = 1.0, search: Sequence[float] = (7.0, 3.0),
        views: int = 0, logit_scale: float = 0.0,
    ):  # fmt: skip
        super().__init__(backbone, classes, templates=templates, ensemble=ensemble, texts=texts)
        if len(search) not in (0, 2) or any(end <= 0.1 for end in search):
            raise InputError(f"search takes the upper ends of beta and alpha, such as [7, 3], not {list(search)}")
        for option, value in (("views", views), ("logit_scale", logit_scale)):
            if value < 0:
                raise InputError(f"{option} is {value:g}; it takes a positive number, or 0")
        self.search, self.prepare_views = tuple(search), views
        self.register_buffer("values", torch.empty(0, len(classes)))
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))
        keys = torch.empty(0, backbone.image.feature_dim)
        if self.learns_keys:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)

    def prepare(self, train: Batches, val: Batches) -> None:
        """Fill the cache with the training images; their views are averaged before they are normalised."""
        features, labels = all_features(self.backbone, train)
        count = len(features) // max(1, self.prepare_views)
        self.keys.data = F.normalize(torch.stack(features.split(count)).mean(dim=0), dim=-1)
        self.values.data = F.one_hot(labels[:count], len(self.classes)).float()

    @torch.no_grad()
    def finish(self, train: Batches, val: Batches) -> None:
        """Choose alpha and beta on the validation images."""
        if not self.search:
            return
        features, labels = all_features(self.backbone, val)
        if not len(labels):
            raise InputError("the search for alpha and beta needs validation images; METHOD.OPTIONS.SEARCH [] does not")
        alpha, beta = search(self.zero_shot(features), self.affinity(features), self.values, labels, self.search)
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)

    def affinity(self, features: Tensor) -> Tensor:
        """Return the cosines (B, N) of image features (B, E) with the cached images."""
        return F.normalize(features, dim=-1).to(self.keys.dtype) @ self.keys.T

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone.image.as_features(images)
        votes = cache_logits(self.affinity(features), self.values, self.beta)
        return self.zero_shot(features) + self.alpha * votes

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; the cache takes the size of those in `state`."""
        for name, own in (("keys", self.keys), ("values", self.values)):
            if name in state and state[name].dim() == 2:
                own.data = own.new_empty(len(state[name]), own.shape[1])
        super().load_learned_state(state)


class TipAdapterF(TipAdapter):
    """Tip-Adapter-F: Tip-Adapter with trained keys; training uses the given `alpha` and `beta`, the search comes last.

    Published: AdamW at 0.001, eps 1e-4, decay 0.01, 20 epochs, cosine over all steps, batch 256.
    """

    learns_keys = True
    stackable = True
    remembered = frozenset({"values"})
