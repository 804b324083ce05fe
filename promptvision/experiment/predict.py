"""Predictions of a trained method on your own images: class names with probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.data.loader import CPU, Views
from promptvision.data.transforms import Transform
from promptvision.engine.device import autocast
from promptvision.engine.progress import Meter
from promptvision.errors import InputError, shown
from promptvision.experiment.half_precision import hold_frozen
from promptvision.experiment.loaders import transform_of
from promptvision.experiment.memory import sizes_named
from promptvision.experiment.prediction.inputs import ImageList, open_entry, shown_entry
from promptvision.method import Method

Guesses = list[tuple[str, float]]
"""Classes with their probabilities, the most likely first."""
UNSURE = "unsure"
"""The label of an image whose largest probability is below the threshold."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most likely classes of an image, or why it cannot be read."""

    path: str
    top: Guesses
    error: str = ""
    unsure: bool | None = None
    """True if the largest probability is below the threshold; None without one."""

    @property
    def label(self) -> str | None:
        """The most likely class, UNSURE below the threshold; None for an image that cannot be read."""
        return UNSURE if self.unsure else self.top[0][0] if self.top else None

    def row(self) -> dict[str, Any]:
        """Return what `predict --json` prints; the label only with a threshold, as it is the first class otherwise."""
        guesses = [{"class": name, "probability": value} for name, value in self.top]
        label = {} if self.unsure is None else {"label": self.label}
        return {"picture": self.path, **label, "top": guesses}


def in_utf8(name: str) -> str:
    """Return a name as it is, or escaped if it is not in UTF-8, as files of an old archive may be."""
    return name if name.encode("utf-8", "ignore").decode() == name else shown(name)


class Predictor:
    """A method that is ready to predict, on its device: what does not depend on images is computed once, and frozen
    weights are held in TRAIN.PRECISION (`hold_frozen`)."""

    def __init__(self, cfg: CfgNode, method: Method):
        self.cfg, self.method = cfg, hold_frozen(cfg, method).eval()
        self.device, self.transform = next(method.backbone.parameters()).device, transform_of(cfg, method)
        with self._computing():
            self.predict = method.predictor()

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Return the probabilities (B, C) of a batch of images, float32, whose pixels are normalised here."""
        with self._computing():
            return self.predict(self._normalised(pixels)).float().softmax(dim=-1)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features (B, E) of a batch of images, float32; of several views those of the first."""
        with self._computing():
            images = self._normalised(pixels)
            return self.method.features_of(images[:, 0] if self.method.image_views else images).float()

    def most_likely(self, probabilities: Tensor, top: int) -> list[Guesses]:
        """Return the `top` most likely classes of each row of probabilities (B, C)."""
        classes = self.method.classes
        best = probabilities.topk(min(top, len(classes)))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(classes[label], value) for label, value in zip(*row, strict=True)] for row in rows]

    def _normalised(self, pixels: Tensor) -> Tensor:
        return self.transform.finish(pixels.to(self.device, non_blocking=True))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with sizes_named(self.cfg), torch.no_grad(), autocast(self.device, self.cfg.TRAIN.PRECISION):
            yield


class Readable(Views):
    """Images to predict, of which some may not be readable."""

    def collate(self, views: list[Any]) -> tuple[Tensor | None, list[str]]:  # type: ignore[override]
        """Return pixels of what can be read, None without any, and for each image "" or why it cannot."""
        faults = [str(view) if isinstance(view, InputError) else "" for view in views]
        good = [view for view, fault in zip(views, faults, strict=True) if not fault]
        batch: Any = super().collate(good) if good else [None]
        return batch[0], faults


class ReadBatch(NamedTuple):
    """Pixels of the images that can be read (None without any), for each image "" or why it cannot be read, and its
    number."""

    pixels: Tensor | None
    faults: list[str]
    numbers: range


def read_batches(
    images: ImageList,
    transform: Transform,
    size: int,
    spans: Sequence[range],
    *,
    workers: int = 0,
    device: torch.device = CPU,
) -> Iterator[ReadBatch]:
    """Yield batches of `size` images, to be predicted on `device`.

    A batch has images of one span, so what it holds does not depend on which spans there are.
    """
    views = Readable(images, open_entry, transform, device=device)
    numbers = [span[start : start + size] for span in spans for start in range(0, len(span), size)]
    found = views.workers(min(workers, len(numbers))).batches([(None, own) for own in numbers])
    for (pixels, faults), own in zip(found, numbers, strict=True):
        yield ReadBatch(pixels, faults, own)


def joined(
    paths: Sequence[str], found: Sequence[Guesses], faults: Sequence[str], threshold: float = 0.0
) -> list[Prediction]:
    """Return a prediction for each path: those without a fault have the guesses, in their order."""
    rest, predictions = iter(found), []
    for path, fault in zip(paths, faults, strict=True):
        top = [] if fault else next(rest)
        unsure = top[0][1] < threshold if threshold and top else None
        predictions.append(Prediction(in_utf8(path), top, fault, unsure))
    return predictions


def predict_images(
    cfg: CfgNode,
    method: Method,
    images: ImageList,
    top: int,
    *,
    threshold: float = 0.0,
    workers: int = 0,
    spans: Sequence[range] | None = None,
    progress: bool = False,
) -> Iterator[list[Prediction]]:
    """Yield the predictions of each batch, in the order of the images: the `top` most likely classes.

    An image that cannot be read has an error in place of classes. `threshold`: least probability of the first class;
    an image below it is UNSURE. `spans`: numbers of the images, if not of all.
    """
    spans = [range(len(images))] if spans is None else spans
    done = len(images) - sum(map(len, spans))
    predictor = Predictor(cfg, method)
    with Meter("predicting", len(images), "image", done=done, shown=progress) as meter:
        found = read_batches(
            images, predictor.transform, cfg.TEST.BATCH_SIZE, spans, workers=workers, device=predictor.device
        )
        for pixels, faults, numbers in found:
            guesses = predictor.most_likely(predictor.probabilities(pixels), top) if pixels is not None else []
            yield joined([shown_entry(images.entry(number)) for number in numbers], guesses, faults, threshold)
            done += len(numbers)
            meter.update(done)
