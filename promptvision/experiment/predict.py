"""A trained method on somebody's images: class names with probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.data.decode import open_image
from promptvision.data.readers.folder import SUFFIXES
from promptvision.data.transforms import Transform
from promptvision.engine.device import autocast, choose_device
from promptvision.errors import InputError
from promptvision.experiment.loaders import transform_of
from promptvision.method import Method


def find_images(names: Sequence[str]) -> list[Path]:
    """Files as given, folders searched through, globs expanded, each once; a name that leads nowhere is refused."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            matches = [path] if path.is_file() else sorted(Path(match) for match in glob(name, recursive=True))
        if not matches:
            raise InputError(f"no image at {name}")
        found += matches
    return list(dict.fromkeys(found))


@torch.no_grad()
def predict_images(
    cfg: CfgNode, method: Method, images: Sequence[Path], top: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """For each image its `top` most likely classes; and one sentence for each image that cannot be read."""
    device = choose_device(cfg.TRAIN.DEVICE)
    method.eval()
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    with autocast(device, cfg.TRAIN.PRECISION):
        predictor = method.predictor()
        for paths, batch in _batches(images, transform_of(cfg, method), cfg.TEST.BATCH_SIZE, broken):
            for path, probabilities in zip(paths, predictor(batch.to(device)).float().softmax(dim=-1), strict=True):
                rows.append({"picture": str(path), "top": _best(probabilities, method.classes, top)})
    return rows, broken


def _batches(
    images: Sequence[Path], transform: Transform, size: int, broken: list[str]
) -> Iterator[tuple[list[Path], Tensor]]:
    for start in range(0, len(images), size):
        read = []
        for path in images[start : start + size]:
            try:
                read.append((path, transform(open_image("", str(path)))))
            except InputError as error:
                broken.append(str(error))
        if read:
            paths, batch = zip(*read, strict=True)
            yield list(paths), torch.stack(batch)


def _best(probabilities: Tensor, classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    values, labels = probabilities.topk(min(top, len(classes)))
    return [
        {"class": classes[label], "probability": value}
        for value, label in zip(values.tolist(), labels.tolist(), strict=True)
    ]
