"""`promptvision.load`: a trained run as a classifier of images in a program."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

import promptvision
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.experiment.predict import predict_images
from promptvision.experiment.prediction.inputs import find_images
from promptvision.experiment.run import load_run

ROOT = Path(__file__).parents[1]


def noise(seed, size=(40, 30)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven images of noise."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(11):
        Image.fromarray(noise(number)).save(root / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def classifier(trained):
    return promptvision.load(trained[0])


def test_it_predicts_what_the_tool_does(trained, classifier, photos):
    folder, cfg = trained
    paths = sorted(photos.iterdir())
    batches = predict_images(cfg, load_run(cfg, FAMILIES, folder), find_images([str(photos)]), 3)
    assert classifier(paths, top=3) == [row.top for batch in batches for row in batch]
    found = classifier.probabilities(paths)
    assert classifier(str(paths[4]), top=3) == classifier([paths[4]], top=3)[0]
    torch.testing.assert_close(classifier.probabilities(paths[4]), found[4:5])
    assert found.shape == (11, len(classifier.classes)) and found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(11))
    assert len(classifier(paths[0], top=100)) == len(classifier.classes)


def test_an_image_is_the_same_however_it_is_given(classifier, photos):
    path, pixels = photos / "03.png", noise(3)
    tensor = pil_to_tensor(Image.open(path))
    wanted = classifier.probabilities(path)
    given = [str(path), Image.open(path), pixels, tensor, tensor.float() / 255, tensor.double() / 255, pixels[::1]]
    for image in given:
        assert torch.equal(classifier.probabilities(image), wanted), type(image)
    many = classifier.probabilities(given)
    torch.testing.assert_close(many, wanted.expand(7, -1))
    for batch in (np.stack([pixels] * 7), torch.stack([tensor] * 7), tuple(given), iter(given)):
        assert torch.equal(classifier.probabilities(batch), many)
    grey = pixels[..., 0]
    same = np.repeat(grey[..., None], 3, axis=2)
    assert torch.equal(classifier.probabilities(grey), classifier.probabilities(same))
    assert torch.equal(classifier.probabilities(Image.fromarray(grey)), classifier.probabilities(same))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "no images: the list is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no images: the list is empty"),
        (3, "an image is a path, a PIL image, an array .* not an int"),
        ([None], "image is a NoneType; an image is a path"),
        (np.zeros((8, 8, 3)), "image is an array of float64; it must be uint8, from 0 to 255"),
        (np.zeros((3, 8, 9), np.uint8), "of shape .*channels last: image.transpose"),
        (np.zeros((8, 8, 4), np.uint8), r"is an array of shape \(8, 8, 4\); it must be \(H, W, 3\) or \(H, W\)$"),
        (np.zeros((8,), np.uint8), r"is an array of shape \(8,\)"),
        (np.zeros((0, 8), np.uint8), "image has no pixels: 8 x 0"),
        (np.zeros((1, 5000, 3), np.uint8), "a strip of 5000 x 1 pixels"),
        (Image.new("RGB", (0, 0)), "image has no pixels: 0 x 0"),
        (torch.zeros(8, 8, 3), "channels first: image.permute"),
        (torch.zeros(1, 8, 8), r"is a tensor of shape \(1, 8, 8\); it must be \(3, H, W\)$"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "is a tensor of torch.int64; it must be uint8"),
        (torch.full((3, 8, 8), torch.nan), "holds NaN"),
        (torch.full((3, 8, 8), -1.5), "has values from -1.5 to -1.5; they must be from 0 to 1"),
        ("a\0.png", r"image 'a\\x00.png' cannot be read: its name has a NUL character"),
        ("missing.png", "image missing.png cannot be read: No such file or directory"),
        ("https://example.org/a.png", "it is an address: download the image, and name the file"),
        ([noise(0), np.zeros((8, 8, 3))], "^image 1 is an array of float64"),
    ],
)
def test_what_is_no_image_is_one_sentence(classifier, images, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        classifier(images)
    assert "\n" not in str(caught.value)


def test_an_opened_file_that_is_cut_short_is_one_sentence(classifier, photos, tmp_path):
    Image.fromarray(noise(0)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-500])
    with pytest.raises(InputError, match="image cannot be read: .*truncated"):
        classifier(Image.open(tmp_path / "a.jpg"))


def test_features_are_what_the_method_classifies(classifier, words, photos):
    paths = sorted(photos.iterdir())
    method = classifier.method
    with torch.no_grad():
        logits = method.head(classifier.features(paths))
    torch.testing.assert_close(logits.softmax(dim=1), classifier.probabilities(paths))
    coop = promptvision.load(words)
    with torch.no_grad():
        logits = coop.method.backbone.logits(coop.features(paths), coop.method.text_features())
    torch.testing.assert_close(logits.softmax(dim=1), coop.probabilities(paths))


def test_other_classes_and_a_saved_classifier(words, photos, tmp_path):
    coop = promptvision.load(words)
    other = coop.with_classes(["cat", "dog"])
    assert other.classes == ["cat", "dog"] and len(coop.classes) == 24
    path = photos / "00.png"
    place = other.save(tmp_path / "a/saved")
    assert {each.name for each in place.iterdir()} == {"config.yaml", "result.json", "learned.safetensors"}
    again = promptvision.load(place)
    assert again.classes == ["cat", "dog"] and torch.equal(again.probabilities(path), other.probabilities(path))
    whole = promptvision.load(coop.save(tmp_path / "whole"))
    assert torch.equal(whole.probabilities(path), coop.probabilities(path))
    back = promptvision.load(again.with_classes(coop.classes).save(tmp_path / "back"))
    assert torch.equal(back.probabilities(path), coop.probabilities(path))
    with pytest.raises(InputError, match="saved exists: choose another folder, or delete it"):
        coop.save(place)
    with pytest.raises(InputError, match="takes a list of names"):
        coop.with_classes("cat")
    with pytest.raises(InputError, match="two classes are called 'cat'"):
        coop.with_classes(["cat", "cat"])


def test_names_that_are_no_texts_are_one_sentence(words):
    with pytest.raises(InputError, match="class 1 is 2, which is no text; class names are texts"):
        promptvision.load(words).with_classes(["a", 2])


def test_a_method_tied_to_its_classes_says_so(classifier):
    with pytest.raises(InputError, match="Linear is tied to the classes it was trained on"):
        classifier.with_classes(["cat", "dog"])


def test_new_classes_are_made_of_float32_weights(words, photos, tmp_path):
    place = promptvision.load(words).save(tmp_path / "half")
    text = (place / "config.yaml").read_text()
    (place / "config.yaml").write_text(text.replace("PRECISION: fp32", "PRECISION: bf16"))
    half, path = promptvision.load(place), photos / "00.png"
    wanted = half.with_classes(["cat", "dog"]).probabilities(path)
    half = promptvision.load(place)
    half(path)
    assert torch.equal(half.with_classes(["cat", "dog"]).probabilities(path), wanted)


def test_loading_draws_nothing_and_moves_where_it_is_told(trained):
    before = torch.random.get_rng_state()
    classifier = promptvision.load(trained[0], device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert classifier.device == torch.device("cpu") and classifier.to("cpu") is classifier
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        promptvision.load(trained[0], device="gpu")
    with pytest.raises(InputError, match="top is 1.5; it must be at least 1, a whole number"):
        classifier(noise(0), top=1.5)
    with pytest.raises(InputError, match="top is 0; it must be at least 1"):
        classifier(noise(0), top=0)


def test_a_run_of_a_gpu_is_loaded_without_one(trained, tmp_path):
    place = promptvision.load(trained[0]).save(tmp_path / "cuda")
    text = (place / "config.yaml").read_text()
    (place / "config.yaml").write_text(text.replace("DEVICE: cpu", "DEVICE: cuda:3"))
    assert promptvision.load(place).cfg.TRAIN.DEVICE == "auto"


def test_a_folder_without_a_run_is_one_sentence(tmp_path, trained):
    with pytest.raises(InputError, match="the run .*nothing does not exist$"):
        promptvision.load(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the run .*file is a file, not a folder$"):
        promptvision.load(tmp_path / "file")
    for name in ("another", "best"):  # as `fit` leaves them
        (tmp_path / "fit" / name).mkdir(parents=True)
        (tmp_path / "fit" / name / "config.yaml").touch()
    with pytest.raises(
        InputError, match="fit is no folder of a run: it has no config.yaml; did you mean .*fit/best\\?$"
    ):
        promptvision.load(tmp_path / "fit")
    place = promptvision.load(trained[0]).save(tmp_path / "cut")
    (place / "learned.safetensors").unlink()
    with pytest.raises(InputError, match="learned.safetensors does not exist; has the run finished"):
        promptvision.load(place)


def test_importing_promptvision_imports_no_torch():
    code = "import promptvision, sys, json; print(json.dumps([name in sys.modules for name in ('torch', 'PIL')]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(found.stdout) == [False, False]
