"""GDA: Gaussian discriminant analysis of image features, training-free (Wang et al., ICLR 2024, arXiv:2402.04087)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coop.parts.teacher import all_features, check_every_class
from coop.zero_shot import ZeroShot
from promptvision.backbones import CLIP
from promptvision.errors import InputError, unknown
from promptvision.method import Batches

COVARIANCES = ("pooled", "classwise")
ALPHAS = [10.0**power for power in range(-4, 3)]


class GDA(ZeroShot):
    """Zero-shot logits plus alpha (f W^T + b), where classes are Gaussians of one covariance in normalised features f.

    W = mu P with the class means mu and the precision P, b = -log C - mu W / 2. `templates`, `ensemble`, `texts` as in
    ZeroShot. `covariance`: "pooled", of all features around their class means, shrunk (few-shot experiments), or
    "classwise", the mean of the classes' covariances, not shrunk (base to new). `alpha`: weight of the Gaussians; 0
    searches it on the validation images. `views`: augmented views of an image, each of which counts as an image
    (published: 10); 0 for the image without augmentation. `logit_scale`: factor of the zero-shot cosine, 0 for the
    backbone's own (published: 100). `neighbours`: training features nearest to its text from which a new class gets its
    Gaussian; with 0, new classes are refused. `copies`: copies of the text that are added to these neighbours. Learns
    `W` (C, E), `b` (C,), `alpha`, and remembers the training `vectors` (N, E) for new classes.
    """

    fewer_classes = True
    remembered = frozenset({"vectors"})
    W: Tensor
    b: Tensor
    alpha: Tensor
    vectors: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        templates: Sequence[str] = (), ensemble: str = "", texts: str = "", covariance: str = "pooled",
        alpha: float = 0.0, views: int = 0, logit_scale: float = 0.0, neighbours: int = 64, copies: int = 16,
    ):  # fmt: skip
        super().__init__(backbone, classes, templates=templates, ensemble=ensemble, texts=texts)
        if covariance not in COVARIANCES:
            raise unknown("covariance", covariance, COVARIANCES)
        for name, value in (("alpha", alpha), ("views", views), ("logit_scale", logit_scale), ("copies", copies)):
            if value < 0:
                raise InputError(f"{name} is {value:g}; it takes a positive number, or 0")
        if neighbours < 0 or neighbours == 1:
            raise InputError(f"neighbours is {neighbours}; a covariance takes two or more, or 0 for no new classes")
        self.prepare_views, self.new_classes, size = views, neighbours > 0, backbone.image.feature_dim
        self.register_buffer("W", torch.zeros(len(self.trained_classes), size))
        self.register_buffer("b", torch.zeros(len(self.trained_classes)))
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("vectors", torch.empty(0, size))

    @torch.no_grad()
    def prepare(self, train: Batches, val: Batches) -> None:
        """Fit the Gaussians to the training images, and choose alpha on the validation images."""
        features, labels = all_features(self.backbone, train)
        check_every_class(self.classes, labels, "GDA")
        with torch.autocast(features.device.type, enabled=False):
            vectors = F.normalize(features, dim=-1)
            means = torch.stack([vectors[labels == label].mean(dim=0) for label in range(len(self.classes))])
            self.W, self.b = discriminant(means, precision_of(vectors, means, labels, self.options["covariance"]))
            self.vectors = vectors if self.new_classes else self.vectors
        if self.options["alpha"]:
            return
        features, labels = all_features(self.backbone, val)
        if not len(labels):
            raise InputError("the search for alpha needs validation images; without any, set METHOD.OPTIONS.ALPHA")
        zero_shot, scores = self.both_logits(features, self.W, self.b)
        hits = [int(((zero_shot + alpha * scores).argmax(dim=1) == labels).sum()) for alpha in ALPHAS]
        self.alpha.fill_(ALPHAS[hits.index(max(hits))])  # the smallest of equals

    def both_logits(self, features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the zero-shot logits (B, C) of features (B, E), and f W^T + b, in float32: W f and b nearly cancel."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(weight.dtype)
            return self.zero_shot(features), F.normalize(features, dim=-1) @ weight.T + bias

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Return W (C, E) and b (C,) of the classes: those of training, or made of their nearest training features."""
        labels = torch.tensor(self.trained_labels, device=self.W.device)
        weight = self.W[labels.clamp(min=0)]
        bias = self.b[labels.clamp(min=0)] + math.log(len(self.trained_classes) / len(self.classes))
        if (labels >= 0).all() or not len(self.vectors):  # before training there are no vectors
            return weight, bias
        new = labels < 0
        with torch.autocast(weight.device.type, enabled=False):
            weight[new], bias[new] = discriminant(*self._by_texts(self.features[new]), classes=len(labels))
        return weight, bias

    def _by_texts(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return means (C, E) and precision (E, E) of new classes with text features (C, E)."""
        wanted, copies = min(self.options["neighbours"], len(self.vectors)), self.options["copies"]
        near = self.vectors[(texts @ self.vectors.T).topk(wanted).indices]
        means = (near.sum(dim=1) + copies * texts) / (wanted + copies)
        precision = torch.zeros(means.shape[1], means.shape[1], dtype=torch.double, device=means.device)
        for away in (near - texts[:, None]).double():
            precision += shrunk(away.T @ away, wanted) / len(texts)
        return means, precision.to(means.dtype)

    def predictor(self) -> Callable[[Tensor], Tensor]:
        weight, bias = self.classifier()

        def predict(images: Tensor) -> Tensor:
            zero_shot, scores = self.both_logits(self.backbone.image.as_features(images), weight, bias)
            return zero_shot + self.alpha * scores

        return predict

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor()(images)

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Set the learned tensors; there are as many vectors as in `state`."""
        if "vectors" in state and state["vectors"].dim() == 2:
            self.vectors = self.vectors.new_empty(len(state["vectors"]), self.vectors.shape[1])
        super().load_learned_state(state)


def discriminant(means: Tensor, precision: Tensor, classes: int = 0) -> tuple[Tensor, Tensor]:
    """Return W (C, E) and b (C,) of Gaussians with these means, and equal priors among C or `classes`."""
    weight = means @ precision
    return weight, -math.log(classes or len(means)) - (means * weight).sum(dim=1) / 2


def precision_of(vectors: Tensor, means: Tensor, labels: Tensor, covariance: str) -> Tensor:
    """Return the precision (E, E) of vectors (N, E) around the means of their classes; `covariance` as in GDA."""
    away, counts = (vectors - means[labels]).double(), torch.bincount(labels).double()
    if away.norm(dim=1).max() < 1e-4:  # equal features differ by rounding
        advice = "take more DATASET.SHOTS, or augmented views (METHOD.OPTIONS.VIEWS 10)"
        raise InputError(f"GDA needs two different training images of some class, or it has no covariance: {advice}")
    if covariance == "pooled":
        return shrunk(away.T @ away, len(vectors)).to(vectors.dtype)
    shares = 1 / (counts - 1).clamp(min=1)[labels, None] / len(means)
    cut = len(away.T) * torch.finfo(torch.float32).eps
    return torch.linalg.pinv(away.T @ (away * shares), rtol=cut, hermitian=True).to(vectors.dtype)


def shrunk(spread: Tensor, count: int) -> Tensor:
    """Return E ((n - 1) S + tr(S) I)^-1 of S = spread / (n - 1), for the sum (E, E) of n outer products."""
    identity = torch.eye(len(spread)).to(spread)
    return len(spread) * torch.linalg.inv(spread + spread.trace() / max(1, count - 1) * identity)
