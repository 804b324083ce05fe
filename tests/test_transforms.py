"""The official preprocessing, bit for bit on the golden images, and what the train sides do."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, ToTensor, v2
from torchvision.transforms.functional import pil_to_tensor

from promptvision.data import transforms
from promptvision.data.decode import open_image
from promptvision.errors import InputError

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def gradient(width, height):
    """Red grows to the right, green downwards."""
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, down, Image.new("L", (width, height), 128)))


def test_the_official_test_side_bit_for_bit(golden):
    settings, expected = golden("coop/preprocess/expected")
    assert expected
    for key, tensor in expected.items():
        name, size, kind = key.split(".")
        height, width = (int(side) for side in (size.split("x") if "x" in size else (size, size)))
        image = open_image(str(golden.root / "coop/preprocess"), settings["files"][name])
        if kind == "uint8":
            found = transforms.test_transform("coop", (height, width), ZERO, ONE)(image)
            assert torch.equal(found, tensor / 255), key
        else:
            official = (height, width), settings["mean"], settings["std"]
            found = transforms.test_transform("coop", *official)(image)
            assert torch.equal(found, tensor), key


@pytest.mark.parametrize("name", transforms.TRAIN)
@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
@pytest.mark.parametrize("shape", [(90, 50), (20, 60)])
def test_every_recipe_gives_a_normalised_tensor_of_the_size(name, size, shape):
    for side in (transforms.train_transform, transforms.test_transform):
        plain = side(name, size, ZERO, ONE)
        scaled = side(name, size, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
        torch.manual_seed(0)
        view = plain(gradient(*shape))
        torch.manual_seed(0)
        normalised = scaled(gradient(*shape))
        assert view.shape == (3, *size) and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1
        mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 0.2]).view(3, 1, 1)
        torch.testing.assert_close(normalised, (view - mean) / std)


def test_the_test_side_of_coda_prompt_is_a_plain_resize():
    image = gradient(20, 60)
    found = transforms.test_transform("coda", (32, 32), ZERO, ONE)(image)
    assert torch.equal(found, pil_to_tensor(image.resize((32, 32), Image.Resampling.BILINEAR)) / 255)


def test_petl_vit_resizes_whatever_the_aspect():
    image = gradient(20, 60)
    wanted = pil_to_tensor(image.resize((32, 32), Image.Resampling.BICUBIC)) / 255
    assert all(
        torch.equal(make("petl", (32, 32), ZERO, ONE)(image), wanted)
        for make in (transforms.test_transform, transforms.train_transform)
    )


def views(name, size, image, count=40):
    torch.manual_seed(0)
    transform = transforms.train_transform(name, size, ZERO, ONE)
    return torch.stack([transform(image) for _ in range(count)])


def flipped(view):
    return bool(view[0, :, 0].mean() > view[0, :, -1].mean())


@pytest.mark.parametrize("name", ["coop", "fgvc"])
def test_half_of_the_train_views_are_flipped(name):
    shares = [flipped(view) for view in views(name, 32, gradient(64, 64), 200)]
    assert 70 <= sum(shares) <= 130


def test_coop_crops_8_to_100_percent_of_the_area():
    seen = [
        (view[0].max() - view[0].min()) * (view[1].max() - view[1].min())
        for view in views("coop", 32, gradient(256, 256), 200)
    ]
    assert 0.05 < min(seen) < 0.2
    assert 0.8 < max(seen) <= 1


def test_fgvc_crops_seven_eighths_of_the_shorter_side():
    for view in views("fgvc", 224, gradient(600, 300)):
        assert (view[1].max() - view[1].min()).item() == pytest.approx(7 / 8, abs=0.02)
    official = transforms.test_transform("fgvc", 224, ZERO, ONE)(gradient(512, 256))
    assert torch.equal(official, pil_to_tensor(gradient(512, 256).crop((144, 16, 368, 240))) / 255)


@pytest.mark.parametrize(("crop", "shorter"), [(224, 256), (384, 438), (448, 512)])
def test_fgvc_sizes_are_the_official_ones(crop, shorter):
    assert transforms.TEST["fgvc"]((crop, crop))[0].size == [shorter]


def test_vtab_squashes_the_whole_image_without_antialiasing():
    stripes = Image.new("RGB", (8, 4))
    for x in range(0, 8, 2):
        stripes.paste((255, 255, 255), (x, 0, x + 1, 4))
    view = transforms.test_transform("vtab", (4, 2), ZERO, ONE)(stripes)
    assert torch.equal(view, torch.full((3, 4, 2), 0.5))  # tf.image.resize reads the two pixels at each centre
    assert torch.equal(views("vtab", (4, 2), stripes, 1)[0], view)


OFFICIAL = {
    "coop": lambda size: (
        [v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=BICUBIC), v2.RandomHorizontalFlip()],
        [v2.Resize(size, interpolation=BICUBIC), v2.CenterCrop(size)],
    ),
    "tip_adapter": lambda size: (
        [v2.RandomResizedCrop(size, scale=(0.5, 1), interpolation=BICUBIC), v2.RandomHorizontalFlip()],
        [v2.Resize(size, interpolation=BICUBIC), v2.CenterCrop(size)],
    ),
    "fgvc": lambda size: (
        [v2.Resize(size * 8 // 7, interpolation=BILINEAR), v2.RandomCrop(size), v2.RandomHorizontalFlip()],
        [v2.Resize(size * 8 // 7, interpolation=BILINEAR), v2.CenterCrop(size)],
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("size", [14, 56])
def test_both_sides_are_torchvisions_bit_for_bit(name, size):
    """The official lists of steps as they are written, with ToTensor and Normalize image by image."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ours = transforms.train_transform(name, size, mean, std), transforms.test_transform(name, size, mean, std)
    for steps, own in zip(OFFICIAL[name](size), ours, strict=True):
        official = v2.Compose([*steps, ToTensor(), v2.Normalize(mean, std)])
        for image in (gradient(90, 60), gradient(60, 90), gradient(56, 56)):
            torch.manual_seed(3)
            expected = official(image)
            torch.manual_seed(3)
            assert torch.equal(own(image), expected)


def test_a_batch_is_normalised_as_its_images_are():
    images = [gradient(40 + n, 40) for n in range(5)]
    for name in transforms.TEST:
        transform = transforms.test_transform(name, 16, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
        pixels = torch.stack([transform.pixels(image) for image in images])
        before = pixels.clone()
        assert torch.equal(transform.finish(pixels), torch.stack([transform(image) for image in images]))
        assert torch.equal(pixels, before) and pixels.dtype == (torch.float32 if name == "vtab" else torch.uint8)


def test_center_trains_on_what_it_tests_on():
    image = gradient(50, 40)
    assert torch.equal(views("center", 16, image, 1)[0], transforms.test_transform("coop", 16, ZERO, ONE)(image))


def test_an_unknown_recipe_is_named():
    with pytest.raises(InputError, match="unknown transform 'cop'; did you mean 'coop'"):
        transforms.train_transform("cop", 32, ZERO, ONE)
