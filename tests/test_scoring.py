"""Scores where classes are missing: one class left, classes without images, data with fewer classes than the run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from promptvision.engine.evaluate import scores

ROOT = Path(__file__).parents[1]
COOP, LINEAR = ROOT / "configs/coop/embedded.yaml", ROOT / "configs/vpt/embedded_linear.yaml"
COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30), "yellow": (200, 200, 30)}
CSC = ["METHOD.OPTIONS.CSC", "True", "METHOD.OPTIONS.N_CTX", "2"]


def images_in(folder, count, first=0):
    """Write noisy images of the colour that the folder is named after."""
    folder.mkdir(parents=True)
    for seed in range(first, first + count):
        noise = np.random.default_rng(seed).integers(-25, 25, (32, 32, 3))
        Image.fromarray((np.array(COLOURS.get(folder.name, (9, 9, 9))) + noise).astype("uint8")).save(
            folder / f"{seed}.png"
        )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Datasets as folders: `three` classes, `two` and `one` of them in other order of labels, and a `fourth`."""
    root = tmp_path_factory.mktemp("classes")
    for dataset, names in {
        "three": ("blue", "green", "red"),
        "two": ("green", "red"),
        "one": ("red",),
        "fourth": ("red", "yellow"),
    }.items():
        for name in names:
            images_in(root / dataset / name, 8)
    return root


def own(root):
    return ["DATASET.NAME", "folder", "DATASET.ROOT", root]


def read(path):
    return json.loads(path.read_text())


def said(folder):
    return (folder / "log.txt").read_text()


def test_one_class_has_no_calibration_error():
    found = scores(torch.tensor([[0.3], [7.0]]), torch.tensor([0, 0]))
    assert found["accuracy"] == found["top5"] == found["per_class_mean"] == found["macro_f1"] == 100
    assert found["ece"] is None and found["per_class"] == [100]


@pytest.fixture
def run(tool, root, tmp_path):
    """`run(config, *words)` trains on the three classes and returns the folder."""

    def train(config, *words):
        status, _, err = tool("train", "--config", config, *own(root / "three"), *words, "OUTPUT_DIR", tmp_path / "run")
        assert status == 0, err
        return tmp_path / "run"

    return train


def test_a_run_is_evaluated_on_images_of_one_class(run, tool, root):
    folder = run(COOP, "OPTIM.EPOCHS", "1", "DATASET.SHOTS", "2")
    status, out, err = tool("eval", "--run", folder, *own(root / "one"))
    assert status == 0 and "100.00" in out and "ECE" not in out, err
    [found] = map(read, folder.glob("eval-*.json"))
    assert found["accuracy"] == 100 and found["ece"] is None and found["classes"] == ["red"]
    status, out, err = tool("report", folder)
    assert status == 0, err


@pytest.mark.parametrize(("config", "words"), [(LINEAR, ["OPTIM.EPOCHS", "30"]), (COOP, ["OPTIM.EPOCHS", "1", *CSC])])
def test_labels_are_matched_by_name_for_a_method_tied_to_its_classes(run, tool, root, config, words):
    """`green` and `red` are labels 0 and 1 of the data, 1 and 2 of the run, whose three classes all compete."""
    folder = run(config, *words)
    status, _, err = tool("eval", "--run", folder, *own(root / "two"))
    assert status == 0 and "2 of the 3 classes" in err, err
    first = read(folder / "result.json")
    [found] = map(read, folder.glob("eval-*.json"))
    assert found["classes"] == ["blue", "green", "red"] and found["per_class"][0] is None
    assert found["per_class"][1:] == first["per_class"][1:]
    assert found["per_class_mean"] == sum(first["per_class"][1:]) / 2
    assert "'blue' has no" not in err


def test_a_class_that_the_run_does_not_know_is_named(run, tool, root):
    folder = run(LINEAR, "OPTIM.EPOCHS", "1")
    status, _, err = tool("eval", "--run", folder, *own(root / "fourth"))
    assert status == 2 and "does not know class 'yellow'" in err and "tied to the classes" in err


def test_classes_without_training_or_test_images_are_named_before_training(tool, tmp_path):
    for name in ("blue", "green", "red"):
        images_in(tmp_path / "data/train" / name, 2)
    for name in ("blue", "green", "yellow"):
        images_in(tmp_path / "data/test" / name, 2)
    words = [*own(tmp_path / "data"), "OPTIM.EPOCHS", "1", "DATASET.SHOTS", "0", "OUTPUT_DIR", tmp_path / "run"]
    status, _, err = tool("train", "--config", COOP, *words)
    assert status == 0, err
    before = said(tmp_path / "run").partition("Started:")[0]
    assert "WARNING Class 'yellow' has no training images" in before
    assert "WARNING Class 'red' has no test images: means over classes leave it out" in before
    found = read(tmp_path / "run/result.json")
    assert found["per_class"][2] is None
    assert found["per_class_mean"] == sum(found["per_class"][label] for label in (0, 1, 3)) / 3


def test_many_classes_without_images_are_counted(tool, tmp_path):
    for name in "abcdefgh":
        images_in(tmp_path / "data/train" / name, 1)
    images_in(tmp_path / "data/test/a", 2)
    words = [*own(tmp_path / "data"), "OPTIM.EPOCHS", "1", "DATASET.SHOTS", "0", "OUTPUT_DIR", tmp_path / "run"]
    assert tool("train", "--config", COOP, *words)[0] == 0
    text = said(tmp_path / "run")
    assert (
        "7 classes have no test images: means over classes leave them out ('b', 'c', 'd', 'e', 'f' and 2 more)" in text
    )
    assert "training images:" not in text
