"""Loaders of features: the batches, views and logits that the images would give."""

import pytest
import torch
from tower_features import CROPPED, HALVES, Tower, test_batches

import coop
import vpt
from promptvision.data.images import Images
from promptvision.data.loader import TrainLoader
from promptvision.data.transforms import FIXED, TRAIN, train_transform
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.engine.device import autocast
from promptvision.engine.evaluate import predict
from promptvision.experiment.feature_cache import FeatureCache, FeatureTestLoader, FeatureTrainLoader
from promptvision.experiment.loaders import image_tower

FAMILIES = {"vpt": vpt, "coop": coop}
CPU = torch.device("cpu")


def train_loader(photos, **options):
    return TrainLoader(photos.test, photos.open, CROPPED, **{"batch_size": 4, "seed": 1, **options})


@pytest.mark.parametrize("name", TRAIN)
def test_fixed_recipes_are_those_without_chance(name, photos):
    loader = TrainLoader(photos.test, photos.open, train_transform(name, 6, *HALVES), batch_size=14, seed=1)
    views = [next(iter(loader.view(number, 14)))[0] for number in range(3)]
    assert all(torch.equal(views[0], view) for view in views) == (name in FIXED)


def by_image(loader, epoch):
    order = [index for batch in loader.batches(epoch) for index in batch]
    return dict(zip(order, torch.cat([images for images, _ in loader.epoch(epoch)]), strict=True))


def test_views_take_turns_but_the_order_does_not(photos):
    fresh, turns = train_loader(photos, batch_size=7), train_loader(photos, batch_size=7, views=2)
    for epoch in range(5):
        shown = by_image(turns, epoch)
        assert turns.batches(epoch) == fresh.batches(epoch)
        assert all(torch.equal(shown[index], image) for index, image in by_image(fresh, epoch % 2).items())
    assert fresh.batches(0) != fresh.batches(2)
    assert not torch.equal(by_image(fresh, 0)[3], by_image(fresh, 2)[3])


@pytest.mark.parametrize("views", [0, 3])
def test_training_batches_are_the_same_as_with_images(views, photos, tmp_path, seen):
    plain = train_loader(photos, views=views)
    loader = FeatureTrainLoader(train_loader(photos, views=views), FeatureCache(Tower(), tmp_path), photos, 5)
    loader.prepare(range(4))
    assert sum(seen) == 14 * (views or 4) and max(seen) == 5 and len(loader) == len(plain) == 3
    seen.clear()
    batches = [list(loader.epoch(epoch)) for epoch in range(4)]
    assert not seen and loader.source == "computed"
    for epoch, found in enumerate(batches):
        for (features, labels), (images, wanted) in zip(found, plain.epoch(epoch), strict=True):
            torch.testing.assert_close(features, Tower()(images), atol=1e-6, rtol=1e-6)
            assert torch.equal(labels, wanted)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(found[1:], loader.epoch(epoch, 1), strict=True))
    again = FeatureTrainLoader(train_loader(photos, views=views), FeatureCache(Tower(), tmp_path), photos, 5)
    again.prepare(range(2, 4))
    assert again.source == "cache"


def test_only_the_epochs_ahead_are_computed(photos, tmp_path, seen):
    FeatureTrainLoader(train_loader(photos), FeatureCache(Tower(), tmp_path), photos, 7).prepare(range(3, 5))
    assert seen == [7] * 4
    FeatureTrainLoader(train_loader(photos), FeatureCache(Tower(), tmp_path), photos, 7).prepare(range(2, 6))
    assert seen == [7] * 8


def test_few_images_are_decoded_once_for_many_views(photos, tmp_path):
    opened = []
    noting = Images([], [], photos.test, lambda path: opened.append(path) or photos.open(path), photos.root)
    FeatureTrainLoader(train_loader(noting, views=9), FeatureCache(Tower(), tmp_path), noting, 7, keep=True).prepare(
        range(20)
    )
    assert len(opened) == 2 * 14 and len(list(tmp_path.glob("*.safetensors"))) == 9


def test_views_without_a_place_are_made_when_their_epoch_comes(photos, tmp_path, seen):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(Tower(), tmp_path / "file")
    loader = FeatureTrainLoader(train_loader(photos), cache, photos, 7)
    loader.prepare(range(5))
    assert seen == [7] * 2
    wanted = Tower()(torch.cat([images for images, _ in train_loader(photos).epoch(2)]))
    torch.testing.assert_close(torch.cat([features for features, _ in loader.epoch(2)]), wanted)


FROZEN = [(family, name) for family in FAMILIES for name, row in FAMILIES[family].METHODS.items() if row.frozen_images]


def test_methods_that_prompt_images_do_not_take_features():
    assert ("vpt", "prompt") not in FROZEN and {("vpt", "linear"), ("coop", "coop"), ("coop", "zero_shot")} < set(
        FROZEN
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("family", "name"), FROZEN)
def test_logits_from_features_are_the_same_bit_for_bit(family, name, precision, photos, tmp_path):
    torch.manual_seed(0)
    method = FAMILIES[family].build(name, FAMILIES[family].load_backbone("embedded"), ["red", "blue"])
    tower = image_tower(method)
    loader = test_batches(photos, transform=make_test_transform("coop", 32, tower.mean, tower.std))
    features = FeatureTestLoader(loader, FeatureCache(tower, tmp_path, precision), photos)
    method.prepare(loader, loader)
    if method.fits_tasks:
        method.start_task(0, 1, range(2))
        method.finish(loader, ())
    wanted, labels = predict(method, loader, CPU, precision)
    for _ in range(2):
        logits, same = predict(method, features, CPU, precision)
        assert torch.equal(logits, wanted) and torch.equal(same, labels)
    (images, labels), (given, _) = next(iter(loader)), next(iter(features))
    with autocast(CPU, precision):
        assert given.dim() == 2 and torch.equal(method.loss(given, labels), method.loss(images, labels))
