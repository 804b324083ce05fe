"""Processes that read images: bytes cross, they stay for the next epoch, and are replaced if they are killed."""

import os
import runpy
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.transforms import test_transform as make_test_transform

LOADER = runpy.run_path(str(Path(__file__).parent / "test_loader.py"))
Noise, TRAIN, TEST, same, train_loader = (LOADER[name] for name in ("Noise", "TRAIN", "TEST", "same", "train_loader"))


def test_batches_cross_processes_as_bytes_in_shared_memory():
    loader = train_loader(Noise(4), workers=1)
    (pixels, labels), *_ = loader.workers.batches([("1/0", [0, 2, 1])])
    assert pixels.dtype == torch.uint8 and pixels.is_shared() and labels == [0, 2, 1]
    images, _ = next(loader.view(0, 3).views.batches([[0, 2, 1]]))
    assert images.dtype == torch.float32 and torch.equal(TRAIN.finish(pixels), images)
    floats = make_test_transform("vtab", 8, (0.5,) * 3, (0.25,) * 3)
    squashed = TestLoader(Noise(1).items, Noise(1).open, floats, batch_size=1, workers=1)
    ((pixels, _),) = squashed.workers.batches([(None, [0])])
    assert pixels.dtype == torch.float32


def test_images_are_normalised_on_the_given_device():
    meta = torch.device("meta")
    for batches in (
        train_loader(Noise(4), device=meta).epoch(0),
        TestLoader(Noise(4).items, Noise(4).open, TEST, batch_size=3, device=meta),
    ):
        images, labels = next(iter(batches))
        assert images.device == meta and images.shape == (3, 3, 8, 8) and images.dtype == torch.float32
        assert labels.device.type == "cpu"


def opened_by(place, path):
    """An image in memory; the process that opens it leaves its number."""
    (place / f"{os.getpid()}").touch()
    return Noise(0).open(path)


def numbers(place):
    return {int(file.name) for file in place.iterdir()}


def test_workers_stay_for_the_next_epoch(tmp_path):
    alone = train_loader(Noise(9))
    loader = TrainLoader(Noise(9).items, partial(opened_by, tmp_path), TRAIN, batch_size=3, seed=1, workers=2)
    test = loader.view(7, 2)
    next(loader.epoch(5))  # and no more of it
    for epoch in range(3):
        assert same(loader.epoch(epoch), alone.epoch(epoch))
    assert same(test, alone.view(7, 2))
    assert len(numbers(tmp_path)) == 2 and os.getpid() not in numbers(tmp_path)
    assert same((b for pair in zip(loader.epoch(0), loader.epoch(1), strict=True) for b in pair),
                (b for pair in zip(alone.epoch(0), alone.epoch(1), strict=True) for b in pair))  # fmt: skip
    loader.keep()
    assert same(loader.epoch(3), alone.epoch(3))


@pytest.mark.slow  # torch looks every five seconds whether its workers are alive
def test_a_worker_that_is_killed_between_epochs_is_replaced(tmp_path):
    loader = TrainLoader(Noise(6).items, partial(opened_by, tmp_path), TRAIN, batch_size=3, seed=1, workers=1)
    list(loader.epoch(0))
    (number,) = numbers(tmp_path)
    os.kill(number, signal.SIGKILL)
    assert same(loader.epoch(1), train_loader(Noise(6)).epoch(1))
    assert len(numbers(tmp_path)) == 2
