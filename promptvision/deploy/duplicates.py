"""Near-duplicates of training images among the test images, by the features of the run's own image tower."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptvision.data.loader import TestLoader
from promptvision.errors import InputError, as_called, counted
from promptvision.experiment.feature_cache import FeatureCache, FeatureTestLoader
from promptvision.experiment.feature_file import cache_folder
from promptvision.experiment.loaders import Setup, image_tower
from promptvision.report.page.run import Near, Pair

NEAR = 0.98
"""Least cosine of near-duplicates."""
MOST_COMPARED = 100_000_000
"""Pairs of a test and a training image that are compared, in about five seconds on one core."""
ROWS = 256
"""Test images that are compared at once."""
TRIED = 32
"""Images that are encoded to learn how long one takes."""


def near_duplicates(setup: Setup, seconds: float) -> Near:
    """Return the pairs of a test and its nearest training image with a cosine of NEAR or more.

    Features come from the cache, or are computed if that takes no more than `seconds`.
    """
    split, images = setup.cfg.TEST.SPLIT, setup.data.images
    test, train = getattr(images, split), images.train
    if not train:
        return Near([], "The run has no training images.")
    if len(test) * len(train) > MOST_COMPARED:
        return Near([], f"Not searched: {len(test) * len(train):,} pairs of a {split} and a training image.")
    loaders = feature_loaders(setup, (split, "train"))
    needed = seconds_needed(loaders)
    if needed > seconds:
        command = as_called("python tools/report.py --run RUN")
        return Near([], f"Not searched: features would take about {needed:,.0f} seconds, which `{command}` spends.")
    try:
        for loader in loaders:
            loader.prepare()
    except InputError as error:  # a training image that no augmented view has needed
        return Near([], f"Not searched: {error}.")
    found = nearest(*(loader.features for loader in loaders))
    pairs = [Pair(path, train[place][0], cosine) for (path, _, _), (place, cosine) in zip(test, found, strict=True)]
    near = sorted((pair for pair in pairs if pair.cosine >= NEAR), key=lambda pair: -pair.cosine)
    highest = max(pair.cosine for pair in pairs)
    said = f"{len(near):,} of {counted(len(test), f'{split} image')} have features with a cosine of {NEAR} or more to"
    return Near(near, f"{said} those of a training image; the highest of all is {highest:.4f}.")


def feature_loaders(setup: Setup, splits: Sequence[str]) -> list[FeatureTestLoader]:
    """Return loaders of the image tower's features, as a test sees the images; nothing is computed yet.

    They have the run's own cache if it holds such features, and no file if the tower itself was trained.
    """
    cache = setup.cache
    if cache is None or cache.starts or cache.layers:
        tower = image_tower(setup.method)
        learned = any(parameter.requires_grad for parameter in tower.parameters())
        folder = None if learned else cache_folder(setup.cfg.CACHE_DIR)
        cache = FeatureCache(tower, folder, setup.cfg.TRAIN.PRECISION, progress=setup.progress)
    loaders = (replace(setup, cache=cache).test_loader(split, ahead=False) for split in splits)
    return [loader for loader in loaders if isinstance(loader, FeatureTestLoader)]


def seconds_needed(loaders: Sequence[FeatureTestLoader]) -> float:
    """Return about how long it takes to compute the features that are in no cache, from a few of the images."""
    missing = [loader for loader in loaders if not loader.known()]
    if not missing:
        return 0.0
    views, cache = missing[0].loader.views, missing[0].cache
    some = views.items[:TRIED]
    trial = TestLoader(some, views.open, views.transform, batch_size=len(some), device=views.device)
    started = time.monotonic()
    FeatureCache(cache.tower, None, cache.precision).get(trial, "")
    each = (time.monotonic() - started) / len(some)
    return each * sum(len(loader.labels) for loader in missing)


def nearest(test: Tensor, train: Tensor) -> Iterator[tuple[int, float]]:
    """Yield (place, cosine) of the nearest of the training features (M, E) for each of the test features (N, E)."""
    test, train = (torch.nn.functional.normalize(each.float(), dim=1) for each in (test, train))
    for rows in test.split(ROWS):
        cosines, places = (rows @ train.T).clamp(max=1).max(dim=1)
        yield from zip(places.tolist(), cosines.tolist(), strict=True)
