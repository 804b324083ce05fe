"""The cache of decoded images: exact, resumable, never used where an image has changed."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from promptvision.atomic import locked
from promptvision.data import image_cache as image_cache
from promptvision.data import transforms
from promptvision.data.cards import load_card
from promptvision.data.decode import BadImage, open_image
from promptvision.data.image_cache import CachedImages, build_cache
from promptvision.data.images import Images
from promptvision.data.readers import read
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
SIZES = [(40, 30), (30, 55), (31, 31), (64, 20)]
OPENED = []


def counting(root, path):
    OPENED.append(path)
    return open_image(root, path)


@pytest.fixture
def images(tmp_path):
    """Four JPEG files of several shapes, two to train on, one to validate and one to test."""
    OPENED.clear()
    root = tmp_path / "own"
    root.mkdir()
    for n, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{n}.jpg")
    items = [(f"{n}.jpg", n % 2, "ab"[n % 2]) for n in range(4)]
    return Images(items[:2], items[2:3], items[3:], partial(counting, str(root)), str(root))


def same(left, right):
    return left.mode == right.mode == "RGB" and np.array_equal(np.asarray(left), np.asarray(right))


def test_whole_images_are_the_decoded_ones(images, tmp_path):
    cache = build_cache(images, tmp_path / "cache")
    assert len(cache) == 4 and str(cache.kind) == "whole"
    for path, _, _ in (*images.train, *images.val, *images.test):
        assert same(cache.open(path), images.open(path))


@pytest.mark.parametrize(
    ("recipe", "size", "filter"), [("coop", 24, "bicubic"), ("center", 24, "bicubic"), ("fgvc", 27, "bilinear")]
)
def test_smaller_images_give_the_very_views_of_the_recipe(images, tmp_path, recipe, size, filter):
    cache = build_cache(images, tmp_path / "cache", size, filter=filter)
    test = transforms.test_transform(recipe, 24, (0.5,) * 3, (0.2,) * 3)
    for path, _, _ in (*images.train, *images.val, *images.test):
        assert min(cache.open(path).size) == size
        assert torch.equal(test(cache.open(path)), test(images.open(path)))


def test_an_interrupted_build_resumes(images, tmp_path):
    whole = build_cache(images, tmp_path / "whole")
    OPENED.clear()

    def stopping(path):
        if path == "2.jpg":
            raise KeyboardInterrupt
        return images.open(path)

    with pytest.raises(KeyboardInterrupt):
        build_cache(replace(images, open=stopping), tmp_path / "cache")
    with pytest.raises(InputError, match="is not finished"):
        CachedImages(str(tmp_path / "cache")).serve(images)
    with (tmp_path / "cache" / image_cache.UNFINISHED).open("a") as index:
        index.write('{"path": "2.j')  # killed in the middle of a line, and of an image
    with (tmp_path / "cache" / image_cache.PIXELS).open("ab") as pixels:
        pixels.write(b"half an image")
    resumed = build_cache(images, tmp_path / "cache")
    assert OPENED == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    for name in (image_cache.PIXELS, image_cache.INDEX):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(resumed) == len(whole) == 4


@pytest.mark.parametrize("size", [0, 24])
def test_several_processes_make_the_same_files(images, tmp_path, size):
    (tmp_path / "own/2.jpg").write_bytes(b"no image")
    for jobs in (1, 2):
        build_cache(images, tmp_path / f"{jobs}", size, jobs=jobs)
    for name in (image_cache.PIXELS, image_cache.INDEX):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert [f"{n}.jpg" for n in range(4)] == OPENED, "the second time, other processes decoded"


def test_only_changed_and_new_images_are_decoded_again(images, tmp_path):
    build_cache(images, tmp_path / "cache")
    OPENED.clear()
    build_cache(images, tmp_path / "cache")
    assert OPENED == []
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "own/1.jpg")
    cache = CachedImages(str(tmp_path / "cache"))
    with pytest.raises(InputError, match="lacks 1 of the 4 images or holds older ones, such as 1.jpg"):
        cache.serve(images)
    cache = build_cache(images, tmp_path / "cache")
    assert OPENED == ["1.jpg"] and cache.open("1.jpg").size == (9, 9)
    assert same(cache.serve(images).open("0.jpg"), images.open("0.jpg"))


@pytest.mark.fault("results")
def test_exchanged_files_of_the_same_size_and_times_are_seen(images, tmp_path):
    """As `mv`, `cp -p`, `rsync -t` and `unzip` leave them: size and modification time are those of another file."""
    for name, colour in (("0", (200, 0, 0)), ("2", (0, 0, 200))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"own/{name}.jpg", "BMP")
        os.utime(tmp_path / f"own/{name}.jpg", (1, 1))
    build_cache(images, tmp_path / "cache")
    for old, new in (("0", "x"), ("2", "0"), ("x", "2")):
        (tmp_path / f"own/{old}.jpg").rename(tmp_path / f"own/{new}.jpg")
    with pytest.raises(InputError, match="lacks 2 of the 4 images or holds older ones, such as 0.jpg"):
        CachedImages(str(tmp_path / "cache")).serve(images)
    cache = build_cache(images, tmp_path / "cache")
    assert cache.serve(images).open("0.jpg").getpixel((1, 1)) == (0, 0, 200)


def test_a_copy_on_another_machine_is_known_by_its_contents(images, tmp_path):
    build_cache(images, tmp_path / "cache")
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    copy = replace(images, root=str(tmp_path / "copy"), open=partial(counting, str(tmp_path / "copy")))
    OPENED.clear()
    cache = CachedImages(str(tmp_path / "cache"))
    assert cache.serve(copy).open("1.jpg").size == SIZES[1]
    stamps = (tmp_path / "cache" / image_cache.INDEX).read_text()
    build_cache(copy, tmp_path / "cache")
    assert OPENED == [] and (tmp_path / "cache" / image_cache.INDEX).read_text() != stamps


@pytest.mark.fault("results")
def test_damaged_pixels_are_never_used(images, tmp_path):
    build_cache(images, tmp_path / "cache")
    with (tmp_path / "cache" / image_cache.PIXELS).open("r+b") as pixels:
        pixels.seek(3 * 40 * 30 + 7)
        pixels.write(b"noise")
    cache = CachedImages(str(tmp_path / "cache")).serve(images)
    assert same(cache.open("0.jpg"), images.open("0.jpg"))
    for _ in range(2):
        with pytest.raises(InputError, match="cache has damaged pixels of 1.jpg: delete the folder and build it again"):
            cache.open("1.jpg")


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("line", ["[1]", '{"path": "0.jpg", "at": "x"}', "7", "[" * 99999])
def test_a_damaged_line_of_the_index_is_one_sentence(images, tmp_path, line):
    build_cache(images, tmp_path / "cache")
    with (tmp_path / "cache" / image_cache.INDEX).open("a") as index:
        index.write(line + "\n")
    with pytest.raises(InputError, match="is damaged: delete the folder and build it again"):
        CachedImages(str(tmp_path / "cache")).serve(images)


@pytest.mark.fault("results")
def test_a_cache_of_an_older_version_is_built_again(images, tmp_path):
    build_cache(images, tmp_path / "cache")
    index = tmp_path / "cache" / image_cache.INDEX
    index.write_text(index.read_text().replace('"format": 2', '"format": 1'))
    for attempt in (lambda: build_cache(images, tmp_path / "cache"), CachedImages(str(tmp_path / "cache")).serve):
        with pytest.raises(InputError, match="is of an older version: delete the folder and build it again"):
            attempt(images) if attempt.__name__ == "serve" else attempt()


@pytest.mark.fault("results")
def test_features_of_smaller_copies_are_not_taken_for_those_of_the_files(images, tmp_path):
    prints = {images.fingerprint(images.train)}
    for size in (0, 12, 16):
        prints.add(build_cache(images, tmp_path / f"{size}", size).serve(images).fingerprint(images.train))
    assert len(prints) == 4


def test_a_broken_image_is_remembered_with_its_sentence(images, tmp_path):
    (tmp_path / "own/2.jpg").write_bytes((tmp_path / "own/2.jpg").read_bytes()[:200])
    cache = build_cache(images, tmp_path / "cache")
    with pytest.raises(BadImage, match="2.jpg cannot be read: it is no image, broken or cut short"):
        cache.open("2.jpg")
    assert same(cache.open("3.jpg"), images.open("3.jpg"))


def test_a_cache_goes_to_spawned_workers_as_its_folder_alone(images, tmp_path):
    cache = build_cache(images, tmp_path / "cache")
    cache.open("0.jpg")
    sent = pickle.dumps(cache.open)
    assert len(sent) < 400 and same(pickle.loads(sent)("0.jpg"), cache.open("0.jpg"))


def test_what_is_wrong_with_a_cache_is_one_sentence(images, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(InputError, match="cache does not exist: make it by"):
        CachedImages(str(folder)).serve(images)
    build_cache(images, folder)
    with pytest.raises(InputError, match="holds images whole, not shorter side 12, bicubic: use another folder"):
        build_cache(images, folder, 12)
    with pytest.raises(InputError, match="image 9.jpg is not in the image cache"):
        CachedImages(str(folder)).open("9.jpg")
    with pytest.raises(InputError, match="unknown filter 'bicubik'; did you mean 'bicubic'"):
        build_cache(images, folder, 12, filter="bicubik")
    with pytest.raises(InputError, match="are in memory already"):
        build_cache(Images([], [], [], images.open), folder)
    os.truncate(folder / image_cache.PIXELS, 50)
    with pytest.raises(InputError, match="has lost pixels"):
        CachedImages(str(folder)).open("0.jpg")
    index = folder / image_cache.INDEX
    index.write_text(json.dumps({"kind": {"size": 0}}) + "\nnonsense\n")
    with pytest.raises(InputError, match="is damaged: delete the folder"):
        CachedImages(str(folder)).open("0.jpg")
    index.unlink()
    with pytest.raises(InputError, match="has lost its index"):
        build_cache(images, folder)
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(InputError, match="image cache .* cannot be written: "):
        build_cache(images, folder)


@pytest.mark.fault("files")
def test_two_processes_do_not_build_the_same_cache(images, tmp_path):
    build_cache(images, tmp_path / "cache")
    with (
        locked(tmp_path / "cache" / ".lock", "busy"),
        pytest.raises(InputError, match="is being built by another process"),
    ):
        build_cache(images, tmp_path / "cache")


def test_a_run_on_a_cache_is_the_run_on_the_files(tool, tmp_path):
    """With whole images: the same views in training, and features that are not shared with smaller copies."""
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
    assert sources == ["files", "cache of images, whole", "cache of images, shorter side 40, bicubic"]
    assert torch.equal(learned["files"], learned["whole"]) and not torch.equal(learned["files"], learned["small"])
    assert results["files"]["ece"] == results["whole"]["ece"]
