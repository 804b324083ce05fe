"""MMA++: multi-modal adapters, regularised by their own scale (Yang et al., TPAMI 2026)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coop.parts.adapters import SharedAdapters, adapted_blocks, adapted_image, adapted_views
from coop.parts.deep_prompts import blocks_of_both
from coop.parts.objective import FeatureMethod, Step
from coop.parts.teacher import ENSEMBLES, filled
from coop.parts.texts import read_texts
from promptvision.backbones import CLIP
from promptvision.backbones.classes.entered import EnteredTexts
from promptvision.backbones.classes.shares import agreed
from promptvision.backbones.image import below
from promptvision.errors import InputError, unknown

AT_ONCE = 1024
"""Texts that are encoded together for a prediction."""
Scale = float | Tensor


class MMApp(FeatureMethod):
    """Adapters in both towers with a layer in common; each step draws one text of every class.

    With features f, t of images and texts, and f~, t~ without gradient where the adapters' output counts a random part
    of what it counts in f and t, the objective is the cross-entropy minus `weight` times the mean cosines of t and t~
    and of f and f~. A class feature in predictions is the mean of the normalised features of all its texts.

    `train_scale`: factor of the adapters' output in training. `test_scale`: factor of it in predictions. `weight`:
    factor of the two cosines. `layers`: blocks with adapters, from 0; if empty, all from a third of the shorter tower
    on (block 4 of 12). `dim`: r, the width of an adapter. `dropout`: in the shared layer, in training. `ensemble`:
    "imagenet" for CLIP's 80 templates as the texts, "select" for 7. `texts`: a file of your own texts of each class
    instead.
    Learns `adapter_learner.{text,visual}_adapter.{n}` and `.shared_adapter.{n}`, n the number of a block from 1.
    """

    def __init__(
        self, backbone: CLIP, classes: Sequence[str], *, texts: str = "", ensemble: str = "imagenet",
        layers: Sequence[int] = (), dim: int = 32, train_scale: float = 0.01, test_scale: float = 0.0065,
        weight: float = 2.5, dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__(backbone, classes)
        if not texts and not ENSEMBLES.get(ensemble):
            raise unknown("ensemble", ensemble, [name for name in ENSEMBLES if name])
        if dim < 1 or not 0 <= dropout < 1:
            raise InputError(f"dim is {dim}, dropout {dropout}; dim is at least 1, and dropout a share below 1")
        self.layers = blocks_of_both(backbone, layers, lambda depth: depth // 3)
        self.frozen_blocks = self.layers[0]
        own = read_texts(texts, classes) if texts else filled(ENSEMBLES[ensemble], classes)
        self.counts = torch.tensor([len(each) for each in own])
        self.texts = EnteredTexts(backbone.text, [text for each in own for text in each], self.frozen_blocks)
        widths = backbone.text.width, backbone.image.width
        self.adapter_learner = SharedAdapters(*widths, dim, self.layers, dropout)
        self.terms["text"] = weight, lambda step: -F.cosine_similarity(step.text_features, step.made["text"]).mean()
        self.terms["image"] = weight, lambda step: -F.cosine_similarity(step.image_features, step.made["image"]).mean()

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a text of every class, its number among those of the class (C,), and the part of the scale, a scalar."""
        return (torch.rand(len(self.counts)) * self.counts).long(), torch.rand(())

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the objective; what lies below the adapters is computed once for both scales."""
        chosen, part = (agreed(each, labels.device) for each in self.draw())
        which, part = self.counts.cumsum(0) - self.counts + chosen, part.to(labels.device, non_blocking=True)
        tokens, scale = below(self.backbone.image, images, self.frozen_blocks), self.options["train_scale"]
        features, texts = self._images(tokens, scale), self._texts(which, scale)
        with torch.no_grad():
            made = {"image": self._images(tokens, scale * part), "text": self._texts(which, scale * part)}
        return self.total(Step(images, labels, features, texts, self.logits(features, texts), made))

    def image_features(self, images: Tensor) -> Tensor:
        return self._images(below(self.backbone.image, images, self.frozen_blocks), self.options["test_scale"])

    def text_features(self) -> Tensor:
        """Return the mean of the normalised features of all texts of each class, (C, E).

        At most `AT_ONCE` texts are encoded together.
        """
        every = torch.arange(int(self.counts.sum()))
        parts = [self._texts(some, self.options["test_scale"]) for some in every.split(AT_ONCE)]
        features = F.normalize(torch.cat(parts), dim=-1)
        return torch.stack([own.mean(dim=0) for own in features.split(self.counts.tolist())])

    def _images(self, tokens: Tensor, scale: Scale) -> Tensor:
        """Encode tokens (B, N, D) that enter the first block with an adapter into features (B, E)."""
        learner = self.adapter_learner
        return adapted_image(
            self.backbone.image, tokens, self.frozen_blocks, learner.beside("visual"), scale, learner.draws
        )

    def _texts(self, which: Tensor, scale: Scale) -> Tensor:
        """Encode texts `which` (M,), on the host, of all classes into features (M, E); `scale` as for images."""
        tower, learner = self.backbone.text, self.adapter_learner
        adapters = learner.beside("text")
        blocks = adapted_blocks(tower, adapters, scale)
        views = adapted_views(tower, adapters, scale, learner.draws)
        return self.texts(tower, which, blocks, views)
