"""Predictions of a trained method on your own images: class names with probabilities."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from promptvision.data.decode import open_image
from promptvision.data.readers.search import LeftOut, search
from promptvision.data.transforms import Transform
from promptvision.engine.device import autocast, choose_device
from promptvision.engine.progress import Meter
from promptvision.errors import InputError, shown
from promptvision.experiment.loaders import transform_of
from promptvision.experiment.memory import naming_sizes
from promptvision.method import Method

LOG = logging.getLogger(__name__)


def find_images(names: Sequence[str]) -> list[Path]:
    """Return files as given, the images below folders as training finds them, and globs expanded, each once.

    A warning says what a search leaves out. InputError for a name that leads to no image.
    """
    found, left_out = list[Path](), LeftOut()
    for name in names:
        given = [Path(name)] if Path(name).exists() else sorted(map(Path, glob(name, recursive=True)))
        matches = [file for path in given for file in (search(path, left_out) if path.is_dir() else [path])]
        if not matches:
            told = left_out.sentences()
            raise InputError(f"no image at {shown(name)}" + (f"; {told[0]}" if told else ""))
        found += matches
    for sentence in left_out.sentences():
        LOG.warning("%s", sentence)
    return list(dict.fromkeys(found))


def in_utf8(name: str) -> str:
    """Return a name as it is, or escaped if it is not in UTF-8, as files of an old archive may be."""
    return name if name.encode("utf-8", "ignore").decode() == name else shown(name)


@naming_sizes
@torch.no_grad()
def predict_images(
    cfg: CfgNode, method: Method, images: Sequence[Path], top: int, *, progress: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the `top` most likely classes of each image, and a sentence for each image that cannot be read."""
    device, count = choose_device(cfg.TRAIN.DEVICE), min(top, len(method.classes))
    method.eval()
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    with autocast(device, cfg.TRAIN.PRECISION), Meter("predicting", len(images), "image", shown=progress) as meter:
        predictor = method.predictor()
        for paths, batch in _batches(images, transform_of(cfg, method), cfg.TEST.BATCH_SIZE, broken):
            best = predictor(batch.to(device)).float().softmax(dim=-1).topk(count)
            for path, values, labels in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
                guesses = zip((method.classes[label] for label in labels), values, strict=True)
                row = [{"class": name, "probability": value} for name, value in guesses]
                rows.append({"picture": in_utf8(str(path)), "top": row})
            meter.update(len(rows) + len(broken))
    return rows, broken


def _batches(
    images: Sequence[Path], transform: Transform, size: int, broken: list[str]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield batches (paths, images) of at most `size`; an image that cannot be read adds a sentence to `broken`."""
    for start in range(0, len(images), size):
        readable = []
        for path in images[start : start + size]:
            try:
                readable.append((path, transform(open_image("", str(path)))))
            except InputError as error:
                broken.append(str(error))
        if readable:
            paths, batch = zip(*readable, strict=True)
            yield list(paths), torch.stack(batch)
