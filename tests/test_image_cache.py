"""The cache of decoded pictures: exact, resumable, never used where a picture has changed."""

import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from promptvision.data import image_cache as picture_cache
from promptvision.data import transforms
from promptvision.data.cards import load_card
from promptvision.data.decode import BadPicture, open_picture
from promptvision.data.image_cache import CachedPictures, build_cache
from promptvision.data.images import Pictures
from promptvision.data.readers import read
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
SIZES = [(40, 30), (30, 55), (31, 31), (64, 20)]
OPENED = []


def counting(root, path):
    OPENED.append(path)
    return open_picture(root, path)


@pytest.fixture
def pictures(tmp_path):
    """Four JPEG files of several shapes, two to train on, one to validate and one to test."""
    OPENED.clear()
    root = tmp_path / "own"
    root.mkdir()
    for n, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{n}.jpg")
    items = [(f"{n}.jpg", n % 2, "ab"[n % 2]) for n in range(4)]
    return Pictures(items[:2], items[2:3], items[3:], partial(counting, str(root)), str(root))


def same(left, right):
    return left.mode == right.mode == "RGB" and np.array_equal(np.asarray(left), np.asarray(right))


def test_whole_pictures_are_the_decoded_ones(pictures, tmp_path):
    cache = build_cache(pictures, tmp_path / "cache")
    assert len(cache) == 4 and str(cache.kind) == "whole"
    for path, _, _ in (*pictures.train, *pictures.val, *pictures.test):
        assert same(cache.open(path), pictures.open(path))


@pytest.mark.parametrize(
    ("recipe", "size", "filter"), [("coop", 24, "bicubic"), ("center", 24, "bicubic"), ("fgvc", 27, "bilinear")]
)
def test_smaller_pictures_give_the_very_views_of_the_recipe(pictures, tmp_path, recipe, size, filter):
    cache = build_cache(pictures, tmp_path / "cache", size, filter=filter)
    test = transforms.test_transform(recipe, 24, (0.5,) * 3, (0.2,) * 3)
    for path, _, _ in (*pictures.train, *pictures.val, *pictures.test):
        assert min(cache.open(path).size) == size
        assert torch.equal(test(cache.open(path)), test(pictures.open(path)))


def test_an_interrupted_build_goes_on_where_it_was(pictures, tmp_path, monkeypatch):
    whole = build_cache(pictures, tmp_path / "whole")
    OPENED.clear()
    decode = picture_cache._decode

    def stopping(pictures, path, kind):
        if path == "2.jpg":
            raise KeyboardInterrupt
        return decode(pictures, path, kind)

    monkeypatch.setattr(picture_cache, "_decode", stopping)
    with pytest.raises(KeyboardInterrupt):
        build_cache(pictures, tmp_path / "cache")
    with pytest.raises(InputError, match="is not finished"):
        CachedPictures(str(tmp_path / "cache")).serve(pictures)
    with (tmp_path / "cache" / picture_cache.UNFINISHED).open("a") as index:
        index.write('{"path": "2.j')  # killed in the middle of a line, and of a picture
    with (tmp_path / "cache" / picture_cache.PIXELS).open("ab") as pixels:
        pixels.write(b"half a picture")
    monkeypatch.setattr(picture_cache, "_decode", decode)
    resumed = build_cache(pictures, tmp_path / "cache")
    assert OPENED == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    for name in (picture_cache.PIXELS, picture_cache.INDEX):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(resumed) == len(whole) == 4


def test_only_changed_and_new_pictures_are_decoded_again(pictures, tmp_path):
    build_cache(pictures, tmp_path / "cache")
    OPENED.clear()
    build_cache(pictures, tmp_path / "cache")
    assert OPENED == []
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "own/1.jpg")
    cache = CachedPictures(str(tmp_path / "cache"))
    with pytest.raises(InputError, match="lacks 1 of the 4 pictures or holds older ones, such as 1.jpg"):
        cache.serve(pictures)
    cache = build_cache(pictures, tmp_path / "cache")
    assert OPENED == ["1.jpg"] and cache.open("1.jpg").size == (9, 9)
    assert same(cache.serve(pictures).open("0.jpg"), pictures.open("0.jpg"))


def test_features_of_smaller_copies_are_not_taken_for_those_of_the_files(pictures, tmp_path):
    prints = {pictures.fingerprint(pictures.train)}
    for size in (0, 12, 16):
        prints.add(build_cache(pictures, tmp_path / f"{size}", size).serve(pictures).fingerprint(pictures.train))
    assert len(prints) == 4


def test_a_broken_picture_is_remembered_with_its_sentence(pictures, tmp_path):
    (tmp_path / "own/2.jpg").write_bytes((tmp_path / "own/2.jpg").read_bytes()[:200])
    cache = build_cache(pictures, tmp_path / "cache")
    with pytest.raises(BadPicture, match="2.jpg cannot be read: it is no picture, broken or cut short"):
        cache.open("2.jpg")
    assert same(cache.open("3.jpg"), pictures.open("3.jpg"))


def test_a_cache_goes_to_spawned_workers_as_its_folder_alone(pictures, tmp_path):
    cache = build_cache(pictures, tmp_path / "cache")
    cache.open("0.jpg")
    sent = pickle.dumps(cache.open)
    assert len(sent) < 400 and same(pickle.loads(sent)("0.jpg"), cache.open("0.jpg"))


def test_what_is_wrong_with_a_cache_is_one_sentence(pictures, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(InputError, match="cache does not exist: make it by"):
        CachedPictures(str(folder)).serve(pictures)
    build_cache(pictures, folder)
    with pytest.raises(InputError, match="holds pictures whole, not shorter side 12, bicubic: take another folder"):
        build_cache(pictures, folder, 12)
    with pytest.raises(InputError, match="picture 9.jpg is not in the picture cache"):
        CachedPictures(str(folder)).open("9.jpg")
    with pytest.raises(InputError, match="unknown filter 'bicubik'; did you mean 'bicubic'"):
        build_cache(pictures, folder, 12, filter="bicubik")
    with pytest.raises(InputError, match="are in memory already"):
        build_cache(Pictures([], [], [], pictures.open), folder)
    os.truncate(folder / picture_cache.PIXELS, 50)
    with pytest.raises(InputError, match="has lost pixels"):
        CachedPictures(str(folder)).open("0.jpg")
    index = folder / picture_cache.INDEX
    index.write_text(json.dumps({"kind": {"size": 0}}) + "\nnonsense\n")
    with pytest.raises(InputError, match="is damaged: delete the folder"):
        CachedPictures(str(folder)).open("0.jpg")
    index.unlink()
    with pytest.raises(InputError, match="has lost its index"):
        build_cache(pictures, folder)
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(InputError, match="picture cache .* cannot be written: "):
        build_cache(pictures, folder)


def test_two_processes_do_not_build_the_same_cache(pictures, tmp_path):
    build_cache(pictures, tmp_path / "cache")
    with (
        picture_cache._alone(tmp_path / "cache"),
        pytest.raises(InputError, match="is being built by another process"),
    ):
        build_cache(pictures, tmp_path / "cache")


def test_a_run_on_a_cache_is_the_run_on_the_files(tool, tmp_path):
    """With whole pictures: the same views in training, and features that are not shared with smaller copies."""
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "own" / name).mkdir(parents=True)
        for n in range(10):
            noise = np.random.default_rng(n).integers(-25, 25, (60 + n, 70, 3))
            Image.fromarray((np.array(colour) + noise).astype("uint8")).save(tmp_path / f"own/{name}/{n}.jpg")
    (tmp_path / "own/red/10.jpg").write_bytes(b"")
    for size in (0, 40):
        build_cache(read(load_card("folder"), tmp_path / "own"), tmp_path / f"cache{size}", size)
    words = [
        "--config",
        ROOT / "configs/coop/embedded.yaml",
        "DATASET.NAME",
        "folder",
        "DATASET.ROOT",
        tmp_path / "own",
    ]
    words += ["OPTIM.EPOCHS", "2", "DATASET.SHOTS", "0", "INPUT.ON_BAD_IMAGE", "skip"]
    results, learned = {}, {}
    for name, cache in (("files", ""), ("whole", tmp_path / "cache0"), ("small", tmp_path / "cache40")):
        status, _, err = tool("train", *words, "INPUT.CACHE", cache, "OUTPUT_DIR", tmp_path / name)
        assert status == 0, err
        results[name] = json.loads((tmp_path / name / "result.json").read_text())
        learned[name] = load_file(tmp_path / name / "learned.safetensors")["ctx"]
        assert results[name]["bad_pictures"] == 1 and "10.jpg" in results[name]["left_out"][0]
    sources = [results[name]["pictures_from"] for name in ("files", "whole", "small")]
    assert sources == ["files", "cache of pictures, whole", "cache of pictures, shorter side 40, bicubic"]
    assert torch.equal(learned["files"], learned["whole"]) and not torch.equal(learned["files"], learned["small"])
    assert results["files"]["ece"] == results["whole"]["ece"]
