"""Features in place of images: the same numbers, computed once; never those of another image or view."""

import os
import time

import pytest
import torch
from PIL import Image
from torch import nn
from tower_features import CROPPED, HALVES, Tower, directly, get, test_batches

from promptvision.backbones import load_clip
from promptvision.backbones.fingerprint import fingerprint
from promptvision.data.images import Images
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.errors import InputError
from promptvision.experiment.feature_cache import FeatureCache


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
