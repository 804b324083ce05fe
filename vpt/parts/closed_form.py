"""Methods whose classifier is fitted to features in closed form, after a head has tuned what makes the features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from promptvision.errors import InputError
from promptvision.method import Batches
from vpt.parts.heads import HeadMethod
from vpt.parts.prototypes import cosines, set_means


class ClosedForm(HeadMethod):
    """A classifier that every task of a stream adds its classes to, by default class means and cosines with them.

    Steps of training, if any, see a head instead, which is dropped after the task that it was trained in. Subclasses
    make `prototypes` (C, ...), which start at zero, and `task_of` (C,), the task of each class, -1 for one to come.
    """

    fits_tasks = True
    dropped = frozenset({"head"})
    remembered = frozenset({"task_of"})
    prototypes: Tensor
    task_of: Tensor

    def represent(self, images: Tensor) -> Tensor:
        """Encode images into what the classifier is fitted to."""
        return self.features(images)

    def features_of(self, images: Tensor) -> Tensor:
        return self.represent(images).flatten(1)

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Fit the classifier to what `represent` makes of a task's images, with labels (N,)."""
        set_means(self.prototypes, features, labels)

    def classify(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of the fitted classifier."""
        return cosines(self.represent(images), self.prototypes)

    @torch.no_grad()
    def finish(self, train: Batches, val: Batches) -> None:
        """Fit the classifier to the images, as a test sees them, in float32 at least."""
        device = next(self.parameters()).device
        found = [(self.represent(images.to(device)), labels.to(device)) for images, labels in train]
        if not found:
            raise InputError(f"{type(self).__name__} is fitted to training images; there are none")
        features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        self.fit(features.to(torch.promote_types(features.dtype, torch.float32)), labels)
        self.task_of[labels] = self.task

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """Return `forward`, which need not ask for every batch whether the classifier is fitted."""
        fitted = not self.training and bool((self.task_of == self.task).any())
        return self.classify if fitted else self.forward

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of the classifier; in training, whose validations come before it, of the head."""
        headless = "head" not in self._modules
        if (headless or not self.training) and bool((self.task_of == self.task).any()):
            return self.classify(images)
        if headless:
            raise InputError(f"{type(self).__name__} has seen no training images yet: call finish first")
        return self.head(self.features(images))
