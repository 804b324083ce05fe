"""LP++: a linear probe blended with texts, with rates from the data (Huang et al., CVPR 2024, arXiv:2404.02285)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coop.parts.teacher import all_features, check_every_class
from coop.zero_shot import ZeroShot
from promptvision.backbones import CLIP
from promptvision.errors import InputError, check_share
from promptvision.method import Batches


@dataclass
class Blend:
    """Logits f W^T + b + alpha (f t^T) of normalised features f (B, E) and class texts t."""

    weight: Tensor
    """(C, E)."""
    bias: Tensor
    """(C,)."""
    alpha: Tensor
    """(1, C)."""

    def logits(self, features: Tensor, texts: Tensor) -> Tensor:
        """Return the logits (B, C)."""
        return features @ self.weight.T + self.bias + self.alpha * (features @ texts.T)


class LPPlusPlus(ZeroShot):
    """A linear layer on normalised features plus alpha_c times the cosine with the text of class c.

    Gradient descent on all images at once in `prepare`: W and b with momentum at the rate 4 N / L for the largest
    eigenvalue L of F^T F, alpha now and then with a plain step at N / (4 max_c sum_i (f_i t_c)^2). The last of the
    epochs that are best on the validation images is kept; without any, the last one.
    `templates`, `ensemble`, `texts` as in ZeroShot. `epochs`: steps on all images. `momentum`: momentum of W and b.
    `alpha_every`: epochs from one step of alpha to the next. `views`: augmented views of each image
    (published: 1), 0 for the image without augmentation. `sums`: W starts with the sums of a class's features, not
    their means. `random_bias`: b starts at random as in a linear layer, not at 0. `accumulate_alpha`: alpha follows the
    sum of its gradients over all epochs so far.
    Learns `weight` (C, E), `bias` (C,), `alpha` (1, C), so it cannot name new classes.
    """

    new_classes = False
    weight: Tensor
    bias: Tensor
    alpha: Tensor

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *,
        templates: Sequence[str] = (), ensemble: str = "", texts: str = "",
        epochs: int = 300, momentum: float = 0.9, alpha_every: int = 10, views: int = 0,
        sums: bool = False, random_bias: bool = False, accumulate_alpha: bool = False,
    ):  # fmt: skip
        super().__init__(backbone, classes, templates=templates, ensemble=ensemble, texts=texts)
        for name, value, least in (("epochs", epochs, 1), ("alpha_every", alpha_every, 1), ("views", views, 0)):
            if value < least:
                raise InputError(f"{name} is {value}; it takes a whole number from {least} on")
        check_share("momentum", momentum)
        self.prepare_views, size = views, backbone.image.feature_dim
        bound = size**-0.5
        self.register_buffer("weight", torch.zeros(len(classes), size))
        self.register_buffer("bias", torch.empty(len(classes)).uniform_(-bound, bound) * random_bias)
        self.register_buffer("alpha", torch.zeros(1, len(classes)))

    @torch.no_grad()
    def prepare(self, train: Batches, val: Batches) -> None:
        """Descend on the training images, and keep the epoch that is best on the validation images."""
        features, labels = all_features(self.backbone, train)
        check_every_class(self.classes, labels, "LP++")
        unseen, wanted = all_features(self.backbone, val)
        best = -1
        with torch.autocast(features.device.type, enabled=False):
            unseen = F.normalize(unseen, dim=-1)
            for _, blend in self.descend(F.normalize(features, dim=-1), labels):
                hits = int((blend.logits(unseen, self.features).argmax(dim=1) == wanted).sum())
                if hits >= best:
                    best = hits
                    for name, value in vars(blend).items():
                        getattr(self, name).copy_(value)

    def start(self, features: Tensor, labels: Tensor) -> Blend:
        """Return W, b and alpha before the first epoch, of normalised features (N, E)."""
        members = F.one_hot(labels, len(self.classes)).to(features.dtype)
        if not self.options["sums"]:
            members = members / members.sum(dim=0)
        own = (features @ self.features.T)[torch.arange(len(labels)), labels]
        of_classes = torch.stack([own[labels == label].mean() for label in range(len(self.classes))])
        alpha = (250 * of_classes.mean()).expand(1, len(self.classes)).clone()
        return Blend(members.T @ features, self.bias.clone(), alpha)

    def rates(self, features: Tensor) -> tuple[float, float]:
        """Return the learning rates of W and b, and of alpha."""
        largest = torch.linalg.eigvalsh((features.T @ features).double())[-1]
        steepest = (features @ self.features.T).square().sum(dim=0).max()
        return 4 * len(features) / largest.item(), len(features) / (4 * steepest.item())

    def descend(self, features: Tensor, labels: Tensor) -> Iterator[tuple[float, Blend]]:
        """Yield, after each epoch on normalised features (N, E), its loss and W, b and alpha, which go on changing."""
        blend, (rate, alpha_rate) = self.start(features, labels), self.rates(features)
        speed = Blend(*(torch.zeros_like(value) for value in vars(blend).values()))
        wanted, cosines = F.one_hot(labels, len(self.classes)), features @ self.features.T
        momentum, every = self.options["momentum"], self.options["alpha_every"]
        for epoch in range(1, self.options["epochs"] + 1):
            logits = blend.logits(features, self.features)
            loss, error = F.cross_entropy(logits, labels).item(), (logits.softmax(dim=1) - wanted) / len(labels)
            speed.weight.mul_(momentum).add_(error.T @ features)
            speed.bias.mul_(momentum).add_(error.sum(dim=0))
            slope = (error * cosines).sum(dim=0, keepdim=True)
            speed.alpha.mul_(self.options["accumulate_alpha"]).add_(slope)
            blend.weight -= rate * speed.weight
            blend.bias -= rate * speed.bias
            if epoch % every == 0:
                blend.alpha -= alpha_rate * speed.alpha
            yield loss, blend

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone.image.as_features(images)
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.to(self.weight.dtype), dim=-1)
            return Blend(self.weight, self.bias, self.alpha).logits(features, self.features)
