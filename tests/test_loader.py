"""Batches: the same whatever the workers, resumable within an epoch, and honest about broken images."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from promptvision.data.decode import open_image
from promptvision.data.loader import TestLoader, TrainLoader, smallest_batch
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.data.transforms import train_transform
from promptvision.errors import InputError

TRAIN = train_transform("coop", 8, (0.5,) * 3, (0.25,) * 3)
TEST = make_test_transform("coop", 8, (0.5,) * 3, (0.25,) * 3)


class Noise:
    """Images in memory; notes which are opened."""

    def __init__(self, count):
        self.opened = []
        self.items = [(f"{n}", n % 3, f"class {n % 3}") for n in range(count)]

    def open(self, path):
        self.opened.append(path)
        return Image.fromarray(np.random.default_rng(int(path)).integers(0, 256, (12, 12, 3), dtype=np.uint8))


def train_loader(noise, **options):
    return TrainLoader(noise.items, noise.open, TRAIN, **{"batch_size": 3, "seed": 1, **options})


def same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True))


def test_workers_change_nothing():
    noise = Noise(7)
    assert same(train_loader(noise).epoch(4), train_loader(noise, workers=2).epoch(4))
    test = {"batch_size": 3}
    alone, helped = (TestLoader(noise.items, noise.open, TEST, workers=n, **test) for n in (0, 2))
    assert same(alone, helped)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumes_in_its_middle(workers):
    loader = train_loader(Noise(13), workers=workers)
    assert same(list(loader.epoch(2))[1:], loader.epoch(2, start=1))
    assert list(loader.epoch(2, start=len(loader))) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_view_leaves_the_first_as_it_is(workers):
    """It is another view of the same image, and the same again after a resume."""
    noise = Noise(8)
    one = list(train_loader(noise).epoch(2))
    both = list(train_loader(noise, twice=True, workers=workers).epoch(2))
    assert same(one, [batch[:2] for batch in both])
    for images, _, second in both:
        assert images.shape == second.shape and images.is_contiguous()
        assert all(not torch.equal(a, b) for a, b in zip(images, second, strict=True))
    (*_, resumed) = train_loader(noise, twice=True).epoch(2, start=1)
    assert torch.equal(resumed[2], both[-1][2])
    noise = Noise(3)
    list(train_loader(noise, twice=True).epoch(0))
    assert sorted(noise.opened) == ["0", "1", "2"]  # each image is decoded once
    fixed = next(train_loader(noise, twice=True, fixed=True).epoch(0))
    assert len(fixed) == 3


def test_batches_of_one_class():
    """Every image of a class comes once in an epoch, but those of an incomplete batch; the classes come at random."""
    noise = Noise(20)  # 7, 7 and 6 of the classes
    loader = train_loader(noise, one_class=True)
    assert len(loader) == len(loader.batches(0)) == 6
    orders = [loader.batches(epoch) for epoch in range(30)]
    for batches in orders:
        shown = [index for batch in batches for index in batch]
        assert len(set(shown)) == len(shown) == 18
        assert all(len(batch) == 3 and len({index % 3 for index in batch}) == 1 for batch in batches)
    assert len({tuple(batch[0] % 3 for batch in batches) for batches in orders}) > 10
    assert loader.batches(3) == train_loader(noise, one_class=True).batches(3)
    whole = train_loader(noise, one_class=True, drop_last=False)
    assert len(whole) == len(whole.batches(0)) == 8 and sorted(sum(whole.batches(0), [])) == list(range(20))
    few = train_loader(Noise(4), one_class=True)  # a class with fewer images than a batch has a smaller one
    assert sorted(map(len, few.batches(0))) == [1, 1, 2] and len(few) == 3
    halves = [train_loader(noise, one_class=True, part=(number, 2)).batches(1) for number in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(each) for each in loader.batches(1)]


def test_views_depend_on_seed_epoch_and_index_alone():
    noise = Noise(6)
    first = list(train_loader(noise).epoch(0))
    torch.manual_seed(99)
    assert same(first, train_loader(noise).epoch(0))
    assert not same(first, train_loader(noise).epoch(1))
    assert not same(first, train_loader(noise, seed=2).epoch(0))
    by_ones, by_threes = (
        {tuple(images[i].flatten().tolist()) for images, _ in batches for i in range(len(images))}
        for batches in (train_loader(noise, batch_size=1).epoch(0), first)
    )
    assert by_ones == by_threes


def test_global_generators_are_left_alone():
    state = torch.get_rng_state()
    list(train_loader(Noise(4)).epoch(0))
    list(TestLoader(Noise(4).items, Noise(4).open, TEST, batch_size=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("count", "sizes"), [(7, [3, 3]), (6, [3, 3]), (3, [3]), (2, [2]), (1, [1])])
def test_an_incomplete_batch_is_dropped_unless_alone(count, sizes):
    loader = train_loader(Noise(count))
    batches = list(loader.epoch(0))
    assert [len(labels) for _, labels in batches] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize(("count", "sizes"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2])])
def test_an_incomplete_batch_is_trained_on_where_wanted(count, sizes):
    loader = train_loader(Noise(count), drop_last=False)
    assert [len(labels) for _, labels in loader.epoch(0)] == sizes and len(loader) == len(sizes)
    assert smallest_batch(count, 3, drop_last=False) == sizes[-1]
    assert smallest_batch(count, 3, drop_last=True) == sizes[0]


def test_batches_have_the_promised_shapes_and_every_image_once():
    noise = Noise(6)
    noise.items = [(path, n, "own class") for n, (path, _, _) in enumerate(noise.items)]
    batches = list(train_loader(noise).epoch(0))
    for images, labels in batches:
        assert images.shape == (3, 3, 8, 8) and images.dtype == torch.float32
        assert labels.shape == (3,) and labels.dtype == torch.int64
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(6))


def test_testing_keeps_the_order_and_the_last_small_batch():
    noise = Noise(7)
    loader = TestLoader(noise.items, noise.open, TEST, batch_size=3)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [3, 3, 1] and len(loader) == 3
    assert torch.cat([labels for _, labels in batches]).tolist() == [label for _, label, _ in noise.items]
    assert torch.equal(batches[1][0][0], TEST(noise.open("3")))


def test_kept_images_are_decoded_once():
    noise, again = Noise(6), Noise(6)
    kept, fresh = train_loader(noise, keep=True), train_loader(again)
    for epoch in range(3):
        assert same(kept.epoch(epoch), fresh.epoch(epoch))
    assert sorted(noise.opened) == [path for path, _, _ in noise.items]
    assert len(again.opened) == 18
    assert same(train_loader(noise, keep=True, workers=2).epoch(1), kept.epoch(1))


def test_loaders_can_be_sent_to_spawned_workers():
    """macOS and Windows start workers by pickling what they need."""
    for keep in (False, True):
        loader = train_loader(Noise(4), keep=keep)
        assert same(pickle.loads(pickle.dumps(loader)).epoch(0), loader.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_sentence_even_from_a_worker(tmp_path, workers):
    Image.new("RGB", (9, 9)).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    items = [("whole.png", 0, "a"), ("broken.png", 1, "b")]
    for batches in (
        TrainLoader(items, partial(open_image, str(tmp_path)), TRAIN, batch_size=2, seed=1, workers=workers).epoch(0),
        TestLoader(items, partial(open_image, str(tmp_path)), TEST, batch_size=1, workers=workers),
    ):
        with pytest.raises(InputError) as caught:
            list(batches)
        assert str(tmp_path / "broken.png") in str(caught.value)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_broken_image_to_keep_is_found_at_once(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match="broken.png cannot be read"):
        TrainLoader(
            [("broken.png", 0, "a")], partial(open_image, str(tmp_path)), TRAIN, batch_size=1, seed=1, keep=True
        )


def test_bad_arguments_are_named():
    noise = Noise(2)
    with pytest.raises(InputError, match="no images to train on"):
        TrainLoader([], noise.open, TRAIN, batch_size=2, seed=1)
    with pytest.raises(InputError, match="no images to test on"):
        TestLoader([], noise.open, TEST, batch_size=2)
    with pytest.raises(InputError, match="batch size must be at least 1, not 0"):
        train_loader(noise, batch_size=0)
    with pytest.raises(InputError, match="workers must be at least 0, not -1"):
        train_loader(noise, workers=-1)
