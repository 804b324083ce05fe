"""INPUT.RESIZE tensor: the same crops as Pillow's, nearly the same values, and a key of its own everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from promptvision.data import transforms
from promptvision.data.cards import load_card
from promptvision.data.image_cache import build_cache
from promptvision.data.readers import read
from promptvision.engine.earlier_run import first_difference
from promptvision.errors import InputError
from promptvision.method import ImageViews

PLAIN = (0.0,) * 3, (1.0,) * 3
SIDES = {"train": transforms.train_transform, "test": transforms.test_transform}


def photo(number):
    """Smooth shapes with fine grain, as of a photo."""
    stream = np.random.default_rng(number)
    smooth = Image.fromarray(stream.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((250, 187), Image.BICUBIC)
    pixels = np.asarray(smooth) + stream.integers(-12, 12, (187, 250, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def kinds():
    """Name -> images and the size of the input."""
    world = read(load_card("world_backgrounds"), "data")
    return {
        "photos": ([photo(n) for n in range(20)], 112),
        "world": ([world.open(path) for path, _, _ in world.train[:40]], 48),
    }


def both(name, side, images, size, **options):
    """Pixels by either resize; both leave the generator in the same state."""
    found, states = [], []
    for resize in transforms.RESIZES:
        transform = SIDES[side](name, size, *PLAIN, resize=resize, **options)
        torch.manual_seed(0)
        found.append(torch.stack([transform.pixels(image) for image in images]))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    return found


@pytest.mark.parametrize("kind", ["photos", "world"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name in transforms.TRAIN if name not in ("vtab", "randaugment")])
def test_values_differ_by_a_grey_level_and_few_do(name, side, kind, kinds):
    pillow, tensor = both(name, side, *kinds[kind])
    assert pillow.dtype == tensor.dtype == torch.uint8 and pillow.shape == tensor.shape
    apart = (pillow.int() - tensor.int()).abs()
    assert apart.max() <= 2 and (apart > 1).float().mean() < 1e-4
    share = (apart > 0).float().mean()
    assert share < (0.005 if side == "test" and kind == "photos" else 0.05)
    if kind == "photos":
        assert share > 0  # two kernels, not one twice


def test_vtab_resizes_floats_in_both(kinds):
    for side in SIDES:
        assert torch.equal(*both("vtab", side, *kinds["photos"]))
    assert repr(SIDES["test"]("vtab", 8, *PLAIN, resize="tensor")) == repr(SIDES["test"]("vtab", 8, *PLAIN))


@pytest.mark.parametrize("name", ["coop", "vtab"])
@pytest.mark.parametrize("augmix", [False, True])
def test_views_of_files_are_the_same_crops(name, augmix, kinds):
    wanted = ImageViews(count=4, smallest=0.3, augmix=augmix, seed=3)
    pillow, tensor = both(name, "test", kinds["photos"][0][:5], 56, views=wanted)
    assert pillow.shape == (5, 4, 3, 56, 56) and pillow.dtype == tensor.dtype
    scale = 255 if pillow.is_floating_point() else 1
    apart = (pillow.float() - tensor.float()).abs() * scale
    assert 0 < apart.mean() < (0.2 if augmix else 0.05)
    assert torch.equal(pillow[:, 0], tensor[:, 0]) == (name == "vtab")


def test_features_of_one_never_serve_the_other():
    for side in SIDES:
        reprs = {repr(SIDES[side]("coop", 8, *PLAIN, resize=resize)) for resize in transforms.RESIZES}
        assert len(reprs) == 2
    with pytest.raises(InputError, match="unknown resize 'pilow'; did you mean 'pillow'"):
        SIDES["test"]("coop", 8, *PLAIN, resize="pilow")


@pytest.fixture
def images(tmp_path):
    for name in ("red", "blue"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for n in range(10):
            photo(n + 10 * (name == "red")).save(tmp_path / f"own/{name}/{n}.png")
    return read(load_card("folder"), tmp_path / "own")


def test_smaller_copies_of_either_have_a_cache_of_their_own(images, tmp_path):
    caches = {name: build_cache(images, tmp_path / name, 40, resize=name) for name in transforms.RESIZES}
    assert str(caches["tensor"].kind) == "shorter side 40, bicubic, tensor"
    assert len({cache.serve(images).fingerprint(images.train) for cache in caches.values()}) == 2
    test = SIDES["test"]("coop", 40, *PLAIN, resize="tensor")
    for path, _, _ in images.test:
        assert torch.equal(test(caches["tensor"].open(path)), test(images.open(path)))
    with pytest.raises(InputError, match="holds images shorter side 40, bicubic, not shorter side 40, bicubic, tensor"):
        build_cache(images, tmp_path / "pillow", 40, resize="tensor")


def test_a_run_says_what_resized_and_caches_apart(images, tmp_path, tool):
    build_cache(images, tmp_path / "small", 40)
    words = ["--config", Path(__file__).parents[1] / "configs/coop/embedded.yaml", "DATASET.NAME", "folder"]
    words += ["DATASET.ROOT", tmp_path / "own", "OPTIM.EPOCHS", "0", "CACHE_DIR", tmp_path / "features"]
    results, files = {}, []
    for name in transforms.RESIZES:
        status, _, err = tool("train", *words, "INPUT.RESIZE", name, "OUTPUT_DIR", tmp_path / name)
        assert status == 0, err
        results[name] = json.loads((tmp_path / name / "result.json").read_text())
        files.append(len([*(tmp_path / "features").rglob("*.safetensors")]))
    assert files[1] == 2 * files[0] > 0
    assert {name: result["resize"] for name, result in results.items()} == {"pillow": "pillow", "tensor": "tensor"}
    assert "INPUT.RESIZE was 'pillow', here it is 'tensor'" in first_difference(
        {"INPUT": {}}, {"INPUT": {"RESIZE": "tensor"}}
    )  # a run of a version without the key
    other = ["INPUT.RESIZE", "tensor", "INPUT.CACHE", tmp_path / "small", "OUTPUT_DIR", tmp_path / "mixed"]
    status, _, err = tool("train", *words, *other)
    assert status == 2 and "holds copies resized by pillow, INPUT.RESIZE is tensor" in err and "Traceback" not in err
