"""Predictions on a whole set of images, and the scores that tables report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from promptvision.engine.device import autocast
from promptvision.engine.interrupt import heed
from promptvision.engine.progress import track
from promptvision.errors import InputError, counted
from promptvision.method import Method

Batches = Iterable[tuple[Tensor, Tensor]]


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise InputError for labels (B,) that are not 0 .. classes - 1."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(
            f"label {int(wrong[0])} is out of range: the method has {counted(classes, 'class')}, 0 to {classes - 1}"
        )


@torch.no_grad()
def predict(
    method: Method, batches: Batches, device: torch.device, precision: str = "fp32", *, progress: str = ""
) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) in float32 and labels (N,) of all batches in order, both on the CPU, in eval mode.

    `progress`: title of the progress; empty to show none. While `fit` validates, Ctrl-C and SIGTERM raise Stopped
    before the next batch.
    """
    was_training = method.training
    method.to(device).eval()
    logits, labels = [], []
    with autocast(device, precision):
        predictor = method.predictor()
        for images, targets in track(batches, progress, "batch", shown=bool(progress)):
            heed()
            logits.append(predictor(images.to(device)).float().cpu())
            labels.append(targets.cpu())
    method.train(was_training)
    if not logits:
        raise InputError("there are no images to evaluate on")
    return torch.cat(logits), torch.cat(labels)


def evaluate(
    method: Method,
    batches: Batches,
    device: torch.device,
    precision: str = "fp32",
    *,
    among: Sequence[int] = (),
    progress: str = "",
) -> dict[str, Any]:
    """Return the `scores` of the method's predictions on all batches.

    `among`: the classes that compete, as indices of the method's classes; labels then refer to positions in `among`.
    """
    logits, labels = predict(method, batches, device, precision, progress=progress)
    return scores(logits[:, list(among)] if among else logits, labels)


def scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return what result.json reports of logits (N, C) and labels (N,); all except `n` in per cent.

    `accuracy`; `top5` (top-C with fewer classes); `per_class`, the accuracy of each class, None without images;
    `per_class_mean` over classes with images; `macro_f1` over classes with images (as in Dassl); `ece`: expected
    calibration error, 15 equal bins of the softmax confidence (Guo et al. 2017, arXiv:1706.04599), None with one class,
    whose confidence is always 1; with two classes `roc_auc`, the mean over both classes of the area under the curve of
    their logit (as in VPT).
    """
    classes = logits.shape[1]
    check_labels(labels, classes)
    broken = int((~logits.isfinite().all(dim=1)).sum())
    if broken:
        raise InputError(f"the method gives NaN or infinite logits for {broken} of {counted(len(logits), 'image')}")
    predicted, best = logits.argmax(dim=1), logits.topk(min(5, classes), dim=1).indices
    hits, top_hits = (predicted == labels).double(), (best == labels[:, None]).any(dim=1).double()
    per_class = [hits[labels == c].mean().item() * 100 if (labels == c).any() else None for c in range(classes)]
    seen = [accuracy for accuracy in per_class if accuracy is not None]
    found = {
        "n": len(labels),
        "accuracy": hits.mean().item() * 100,
        "top5": top_hits.mean().item() * 100,
        "per_class_mean": sum(seen) / len(seen),
        "macro_f1": 100 * macro_f1(predicted, labels, classes),
        "ece": 100 * calibration_error(logits.double().softmax(dim=1).float(), labels) if classes > 1 else None,
        "per_class": per_class,
    }
    if classes == 2 and len(seen) == 2:
        from sklearn.metrics import roc_auc_score  # a second of imports, which most runs need not spend

        found["roc_auc"] = 100 * float(roc_auc_score(torch.eye(2)[labels], logits, average="macro"))
    return found


def macro_f1(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Return the mean over the classes in `labels` of F1, 2 hits / (images + predictions)."""
    hits, images, predictions = (
        torch.bincount(each, minlength=classes).double() for each in (labels[predicted == labels], labels, predicted)
    )
    return float((2 * hits / (images + predictions))[images > 0].numpy().mean())


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean over equal bins of |accuracy - mean confidence|, weighted by their images.

    `probabilities` (N, C) in float32, `labels` (N,); the last bin includes a confidence of 1.
    """
    confidences, predicted = probabilities.clamp(max=1 - torch.finfo(torch.float32).eps).max(dim=1)
    place = torch.bucketize(confidences, torch.linspace(0, 1, bins + 1), right=True) - 1
    count, confidence, accuracy = (
        torch.zeros(bins + 1).scatter_add_(0, place, each)
        for each in (torch.ones_like(confidences), confidences, (predicted == labels).float())
    )
    gaps = (accuracy / count).nan_to_num() - (confidence / count).nan_to_num()
    return (gaps.abs() * (count / count.sum())).sum().item()
