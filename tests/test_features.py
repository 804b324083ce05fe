"""Features in place of images: the same numbers, computed once; never those of another tower, image or view."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import coop
import vpt
from promptvision.backbones import ImageTower, load_clip
from promptvision.backbones.fingerprint import fingerprint
from promptvision.data.images import Images
from promptvision.data.loader import TestLoader, TrainLoader
from promptvision.data.readers.checks import Faults
from promptvision.data.readers.folder import read_folder
from promptvision.data.transforms import FIXED, TRAIN, train_transform
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.engine.device import autocast
from promptvision.engine.evaluate import predict
from promptvision.errors import InputError
from promptvision.experiment import feature_file
from promptvision.experiment.feature_cache import FeatureCache, FeatureTestLoader, FeatureTrainLoader
from promptvision.experiment.feature_file import cache_folder
from promptvision.experiment.loaders import image_tower

FAMILIES = {"vpt": vpt, "coop": coop}
CPU = torch.device("cpu")
HALVES = ((0.5,) * 3, (0.25,) * 3)
CROPPED = train_transform("coop", 8, *HALVES)
PLAIN = make_test_transform("coop", 8, *HALVES)


class Tower(ImageTower):
    """(B, 3, 8, 8) to (B, 5)."""

    feature_dim, image_size = 5, 8

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.slope = nn.Conv2d(3, 5, 3), 0.5
        self.requires_grad_(False).eval()

    def forward(self, images):
        SEEN.append(len(images))
        return nn.functional.leaky_relu(self.conv(images), self.slope).mean(dim=(2, 3))


SEEN = []


@pytest.fixture
def seen():
    """Record the number of images in each call of `Tower`."""
    SEEN.clear()
    return SEEN


def save_photos(root, count=7):
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng(index).integers(-25, 25, (12 + index, 14, 3))
            Image.fromarray((np.array(colour) + noise).astype("uint8")).save(root / name / f"{index}.bmp")
    return root


@pytest.fixture
def photos(tmp_path):
    """14 small images in two class folders, all of them as `test`."""
    lists = read_folder(None, str(save_photos(tmp_path / "photos")), Faults())
    items = sorted([*lists.train, *lists.val, *lists.test])
    return Images([], [], items, lists.open, lists.root)


def test_batches(photos, **changes):
    options = {"transform": PLAIN, "batch_size": 4, **changes}
    return TestLoader(photos.test, photos.open, **options)


test_batches.__test__ = False


def get(photos, folder, tower=None, precision="fp32", **changes):
    """(features, source) of all photos through a cache object of its own; a copy, as tests overwrite the file."""
    cache = FeatureCache(tower or Tower(), folder, precision)
    features, source = cache.get(test_batches(photos, **changes), photos.fingerprint(photos.test))
    return features.clone(), source


def directly(photos, tower, **changes):
    return torch.cat([tower(images) for images, _ in test_batches(photos, **changes)])


def test_features_are_those_of_the_tower_bit_for_bit_and_computed_once(photos, tmp_path, seen):
    first, source = get(photos, tmp_path / "c")
    assert source == "computed" and seen == [4, 4, 4, 2] and torch.equal(first, directly(photos, Tower()))
    seen.clear()
    again, source = get(photos, tmp_path / "c")
    assert source == "cache" and not seen and torch.equal(again, first)
    assert [file.suffix for file in (tmp_path / "c").iterdir()] == [".safetensors"]


def test_each_way_of_the_last_block_has_a_file_of_its_own(photos, tmp_path, computed):
    """Another way changes the last digits, so that a file of one way must not serve the other."""
    clip, batch = load_clip("embedded").image, {"transform": make_test_transform("coop", 32, *HALVES)}
    towers = {way: computed(clip, way=way) for way in ("plain", "auto", "fast")}
    found = {way: get(photos, tmp_path / "c", tower, **batch) for way, tower in towers.items()}
    assert {way: source for way, (_, source) in found.items()} == dict(plain="computed", auto="computed", fast="cache")
    for way, (features, _) in found.items():
        assert torch.equal(features, directly(photos, towers[way], **batch))
        torch.testing.assert_close(features, found["plain"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_features_keep_their_dtype_and_lie_aligned(dtype, tmp_path):
    rows = torch.randn(6, 3).to(dtype)
    feature_file.write(tmp_path / "a.safetensors", "key", 6, iter([rows[:4], rows[4:]]))
    read = feature_file.read(tmp_path / "a.safetensors", "key")
    assert read.dtype == dtype and torch.equal(read, rows) and read.data_ptr() % 8 == 0
    assert torch.equal(load_file(tmp_path / "a.safetensors")["features"], rows)


def weight(tower):
    tower.conv.weight.view(-1)[7] += 1e-6


def unseen_weight(tower):
    tower.conv.weight.data[0, 0, 0, 0] *= 1.0001


def attribute(tower):
    tower.slope = 0.25


def submodule(tower):
    tower.act = nn.ReLU()


def hook(tower):
    tower.conv.register_forward_hook(lambda module, args, out: out + 1)


def buffer(tower):
    tower.register_buffer("shift", torch.ones(1), persistent=False)


@pytest.mark.fault("results")
@pytest.mark.parametrize("change", [weight, unseen_weight, attribute, submodule, hook, buffer, lambda t: t.half()])
def test_another_tower_is_told_apart(change, photos, tmp_path):
    assert fingerprint(Tower()) == fingerprint(Tower()) != fingerprint(Tower(1))
    tower = Tower()
    change(tower)
    assert fingerprint(tower) != fingerprint(Tower())
    if next(tower.parameters()).dtype == torch.float32:
        get(photos, tmp_path)
        features, source = get(photos, tmp_path, tower)
        assert source == "computed" and torch.equal(features, directly(photos, tower))


def test_heads_and_activations_belong_to_a_tower():
    """Neither stands among the weights."""
    image = load_clip("embedded").image
    known = fingerprint(image)
    image.blocks[1].attn.num_heads //= 2
    fewer_heads = fingerprint(image)
    image.blocks[0].mlp.gelu = nn.GELU("tanh")
    assert len({known, fewer_heads, fingerprint(image), fingerprint(load_clip("embedded").image)}) == 3


def brighter(photos):
    file = os.path.join(photos.root, photos.test[3][0])
    before = os.stat(file)
    Image.eval(Image.open(file), lambda value: 255 - value).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(file).st_size == before.st_size


def exchanged(photos):
    photos.test[2], photos.test[9] = photos.test[9], photos.test[2]


CHANGES = {
    "an image of the same size and age": (brighter, {}),
    "order": (exchanged, {}),
    "fewer images": (lambda photos: photos.test.pop(), {}),
    "pixels": (None, {"transform": make_test_transform("coop", 9, *HALVES)}),
    "recipe": (None, {"transform": make_test_transform("vtab", 8, *HALVES)}),
    "mean": (None, {"transform": make_test_transform("coop", 8, (0.4,) * 3, HALVES[1])}),
    "deviation": (None, {"transform": make_test_transform("coop", 8, HALVES[0], (0.2,) * 3)}),
    "batch size": (None, {"batch_size": 5}),
    "seed": (None, {"transform": CROPPED, "stream": "2/0"}),
    "view": (None, {"transform": CROPPED, "stream": "1/1"}),
}


@pytest.mark.fault("results")
@pytest.mark.parametrize("change", CHANGES)
def test_features_of_something_else_are_never_used(change, photos, tmp_path):
    alter, options = CHANGES[change]
    get(photos, tmp_path / "c")
    get(photos, tmp_path / "c", transform=CROPPED, stream="1/0")
    if alter:
        alter(photos)
    features, source = get(photos, tmp_path / "c", **options)
    assert source == "computed" and torch.equal(features, directly(photos, Tower(), **options))
    assert get(photos, tmp_path / "c", **options)[1] == "cache"


@pytest.mark.fault("results")
def test_precisions_are_kept_apart(photos, tmp_path):
    assert get(photos, tmp_path)[0].dtype == torch.float32
    features, source = get(photos, tmp_path, precision="bf16")
    assert source == "computed" and features.dtype == torch.bfloat16
    assert torch.equal(get(photos, tmp_path, precision="bf16")[0], features)


def test_images_in_memory_are_known_by_their_pixels():
    def images(value):
        return Images([], [], [("0", 0, "a")], lambda path: Image.new("RGB", (4, 4), (value, 0, 0)))

    prints = [images(value).fingerprint([("0", 0, "a")]) for value in (1, 2, 1)]
    assert prints[0] == prints[2] != prints[1]


def cut(content):
    return content[:-3]


def cut_header(content):
    return content[:40]


def flipped(content):
    return content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]


def other_key(content):
    return content.replace(b"fp32", b"fp16", 1)


def other_dtype(content):
    return content.replace(b'"F32"', b'"I32"', 1)


def other_shape(content):
    return content.replace(b"[14, 5]", b"[7, 10]", 1)


DAMAGES = [cut, cut_header, flipped, other_key, other_dtype, other_shape, lambda c: b"", lambda c: b"\xff" * 99]


@pytest.mark.fault("results")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_rebuilt(damage, photos, tmp_path, caplog):
    features, _ = get(photos, tmp_path / "c")
    (file,) = (tmp_path / "c").iterdir()
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    again, source = get(photos, tmp_path / "c")
    assert source == "computed" and torch.equal(again, features) and file.read_bytes() == whole
    assert [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]


@pytest.mark.fault("results")
def test_a_foreign_file_is_rebuilt(photos, tmp_path):
    features, _ = get(photos, tmp_path / "c")
    (file,) = (tmp_path / "c").iterdir()
    save_file({"features": torch.zeros(14, 5)}, file)
    again, source = get(photos, tmp_path / "c")
    assert source == "computed" and torch.equal(again, features)


@pytest.mark.fault("results")
def test_no_changed_byte_goes_unnoticed(tmp_path):
    """Every byte of the rows, and many of the header: what is read is what was written, or nothing."""
    path, rows = tmp_path / "a.safetensors", torch.randn(4, 3)
    feature_file.write(path, "a key", 4, iter([rows]))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(random.integers(1, 256))]) + whole[place + 1 :])
        found = feature_file.read(path, "a key")
        assert found is None or (place < len(whole) - 48 and torch.equal(found, rows))


def test_of_processes_at_once_one_computes(photos, tmp_path, monkeypatch):
    want = directly(photos, Tower())
    forward, computed = Tower.forward, tmp_path / "computed"

    def count(self, images):
        with computed.open("a") as file:
            file.write("x" * len(images))
        time.sleep(0.01)
        return forward(self, images)

    monkeypatch.setattr(Tower, "forward", count)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            same = all(torch.equal(get(photos, tmp_path / "c" / f"{n}")[0], want) for n in range(20))
            os._exit(0 if same else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert len([file for file in (tmp_path / "c").rglob("*") if file.is_file()]) == 20
    assert computed.stat().st_size == 20 * len(photos.test)
    assert all(get(photos, folder)[1] == "cache" for folder in (tmp_path / "c").iterdir())


@pytest.mark.fault("files")
def test_a_claim_dies_with_its_process(tmp_path):
    path, (ready, told) = tmp_path / "c/a.safetensors", os.pipe()
    child = os.fork()
    if child == 0:
        with feature_file.claimed(path):
            os.write(told, b"x")
            time.sleep(60)
    os.read(ready, 1)
    threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
    with feature_file.claimed(path) as waited:
        assert waited
    os.waitpid(child, 0)
    with feature_file.claimed(path) as waited:
        assert not waited


@pytest.mark.fault("files")
def test_what_killed_processes_left_is_removed_in_the_end(photos, tmp_path):
    old, young = tmp_path / ".a.safetensors.x1", tmp_path / ".a.safetensors.x2"
    for file, age in ((old, 90_000), (young, 10)):
        file.write_bytes(b"part")
        os.utime(file, (time.time() - age,) * 2)
    get(photos, tmp_path)
    assert young.exists() and not old.exists()


def full(*args):
    raise OSError(28, "No space left on device")


def test_without_a_place_to_keep_them_features_are_held_in_memory(photos, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "features", tmp_path / "full"]
    for folder in places:
        if folder.name == "full":
            monkeypatch.setattr(os, "fsync", full)
        caplog.clear()
        cache = FeatureCache(Tower(), folder)
        for _ in range(2):
            features, source = cache.get(test_batches(photos), photos.fingerprint(photos.test))
            assert source == "computed" and torch.equal(features, directly(photos, Tower()))
        assert len(caplog.records) == 1
        assert f"No image features can be kept in CACHE_DIR {folder}" in caplog.text
    assert not list(places[1].iterdir())


def test_a_broken_image_is_named_and_nothing_is_kept(photos, tmp_path):
    broken = os.path.join(photos.root, photos.test[5][0])
    with open(broken, "r+b") as file:
        file.truncate(30)
    with pytest.raises(InputError, match=f"image {broken} cannot be read"):
        get(photos, tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTVISION_CACHE", str(tmp_path))
    assert cache_folder("auto") == tmp_path / "features" and cache_folder("") is None
    assert cache_folder("some/where").parts == ("some", "where", "features")
    monkeypatch.delenv("PROMPTVISION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder("auto") == tmp_path / "x" / "promptvision" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("auto") == tmp_path / "home" / ".cache" / "promptvision" / "features"


# Loaders


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
