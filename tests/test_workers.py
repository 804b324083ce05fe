"""Processes that read images: bytes cross, they stay for the next epoch, and are replaced if they are killed."""

import os
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.shared_batches import Place, SharedBatches
from promptvision.data.transforms import test_transform as make_test_transform

LOADER = runpy.run_path(str(Path(__file__).parent / "test_loader.py"))
Noise, TRAIN, TEST, same, train_loader = (LOADER[name] for name in ("Noise", "TRAIN", "TEST", "same", "train_loader"))
SPAWNED = """
import torch
from PIL import Image
from promptvision.data.loader import TrainLoader
from promptvision.data.transforms import train_transform

def opened(path):
    return Image.radial_gradient("L").rotate(int(path)).convert("RGB")

if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    items, transform = [(str(n), n, "") for n in range(7)], train_transform("coop", 8, (0.5,) * 3, (0.25,) * 3)
    made = [TrainLoader(items, opened, transform, batch_size=2, seed=1, workers=n, drop_last=False) for n in (0, 2)]
    for left, right in zip(*(loader.epoch(0) for loader in made), strict=True):
        assert torch.equal(left[0], right[0]) and torch.equal(left[1], right[1])
"""


def crossed(batches, monkeypatch):
    """The batches, and what has crossed of each."""
    taken, seen = SharedBatches.taken, []
    monkeypatch.setattr(SharedBatches, "taken", lambda it, *batch: seen.append(batch[0]) or taken(it, *batch))
    return list(batches), seen


def test_batches_cross_processes_as_bytes_in_the_same_memory(monkeypatch):
    loader = train_loader(Noise(4), workers=1)
    wanted = [("1/0", [0, 2, 1])] * 4 + [("1/0", [3]), ("1/0", [0, 1, 2, 3])]
    batches, places = crossed(loader.workers.batches(wanted), monkeypatch)
    assert {pixels.dtype for pixels, _ in batches} == {torch.uint8} and batches[0][1] == [0, 2, 1]
    assert [place.first for place, _ in places] == [768 * n for n in (0, 1, 2, 0, 1, 2)]  # 4 images of 3 x 8 x 8 bytes
    assert all(torch.equal(pixels, batches[0][0]) for pixels, _ in batches[:4]) and len(batches[4][0]) == 1
    images, _ = next(loader.view(0, 3).views.batches([[0, 2, 1]]))
    assert images.dtype == torch.float32 and torch.equal(TRAIN.finish(batches[0][0]), images)


def test_a_batch_too_large_for_the_shared_memory_crosses_by_itself(monkeypatch):
    loader, alone = train_loader(Noise(7), workers=2), train_loader(Noise(7))
    assert same(loader.epoch(0), alone.epoch(0))  # memory for batches of three
    batches, places = crossed(loader.view(1, 4), monkeypatch)
    assert same(batches, alone.view(1, 4)) and [type(place) for place, _ in places] == [torch.Tensor, Place]


def test_pixels_that_are_no_bytes_cross_too(monkeypatch):
    floats = make_test_transform("vtab", 8, (0.5,) * 3, (0.25,) * 3)
    alone, helped = (TestLoader(Noise(5).items, Noise(5).open, floats, batch_size=2, workers=n) for n in (0, 1))
    batches, places = crossed(helped, monkeypatch)
    assert same(batches, alone) and {place.dtype for place, _ in places} == {torch.float32}


def test_kept_batches_stay_as_they_are():
    """Each place in the shared memory is filled many times."""
    assert same(train_loader(Noise(40), workers=2).epoch(3), train_loader(Noise(40)).epoch(3))


def test_room_is_measured_without_a_random_draw():
    state = torch.get_rng_state()
    assert TRAIN.bytes_of_image() == 3 * 8 * 8
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow  # each worker imports torch
def test_workers_that_do_not_inherit_memory_load_the_same(tmp_path):
    """macOS and Windows spawn workers."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    subprocess.run([sys.executable, script], check=True, timeout=120)


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
