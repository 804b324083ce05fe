"""Datasets of few images, or with names in other scripts and encodings, on the command line."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from promptvision.cli import one_sentence

COOP = Path(__file__).parents[1] / "configs/coop/embedded.yaml"
QUICK = ["OPTIM.EPOCHS", "1", "DATASET.SHOTS", "2"]
COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}


def write_images(root, count, names=tuple(COLOURS)):
    """Write a class folder with `count` images per name."""
    for name, colour in zip(names, COLOURS.values(), strict=False):
        folder = os.path.join(os.fsencode(root), name if isinstance(name, bytes) else name.encode())
        os.makedirs(folder)
        for index in range(count):
            with open(os.path.join(folder, b"%d.png" % index), "wb") as file:
                Image.new("RGB", (32, 32), colour).save(file, "png")
    return ["DATASET.NAME", "folder", "DATASET.ROOT", root]


@pytest.fixture
def train(tool, tmp_path):
    """`train(words)` trains into tmp_path / "run"; returns (status, stderr)."""

    def call(words, config=COOP):
        status, _, err = tool("train", "--config", config, *QUICK, *words, "OUTPUT_DIR", tmp_path / "run")
        return status, err

    return call


def test_one_image_of_each_class_is_refused_before_training(train, tmp_path):
    status, err = train(write_images(tmp_path / "data", 1))
    assert status == 2 and "'folder' has no test images; name some of them test, or give each class at least two" in err
    assert {file.name for file in (tmp_path / "run").iterdir()} <= {".lock", "log.txt"}


def test_test_images_alone_are_evaluated_and_not_trained_on(train, tool, tmp_path):
    assert train(write_images(tmp_path / "whole", 4))[0] == 0
    write_images(tmp_path / "data/test", 2)
    alone = ["DATASET.NAME", "folder", "DATASET.ROOT", tmp_path / "data"]
    status, _, err = tool("eval", "--run", tmp_path / "run", *alone)
    found = json.loads((tmp_path / "run/eval-folder-all-test.json").read_text())
    assert status == 0 and found["n"] == 6 and found["classes"] == list(COLOURS), err


@pytest.mark.parametrize(("config", "refused"), [(COOP, True), (COOP.with_name("embedded_zero_shot.yaml"), False)])
def test_training_on_test_images_alone_is_one_sentence(train, tmp_path, config, refused):
    """A method that learns nothing needs none."""
    write_images(tmp_path / "data/test", 2)
    status, err = train(["DATASET.NAME", "folder", "DATASET.ROOT", tmp_path / "data"], config)
    sentence = "error: dataset 'folder' has no training images; name some of them train, or choose another dataset"
    assert (status, sentence in err) == (2 if refused else 0, refused), err


def test_class_names_in_another_script_are_evaluated(train, tool, tmp_path):
    assert train(write_images(tmp_path / "whole", 4))[0] == 0
    words = write_images(tmp_path / "data", 4, ("\u9752", "\u7dd1", "\u8d64"))
    status, out, err = tool("eval", "--run", tmp_path / "run", *words)
    assert status == 0 and "\u8d64" in out, err
    [found] = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("eval-*.json")]
    assert found["classes"] == ["\u7dd1", "\u8d64", "\u9752"]


def test_a_class_name_that_is_not_utf_8_is_one_sentence(train, tool, tmp_path):
    assert train(write_images(tmp_path / "whole", 4))[0] == 0
    words = write_images(tmp_path / "data", 4, (b"caf\xe9", "green", "red"))
    status, _, err = tool("eval", "--run", tmp_path / "run", *words)
    assert status == 2 and "the class 'caf\\udce9' in" in err and "is not named in UTF-8: rename it" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_terminal_cannot_show_is_escaped(monkeypatch, encoding):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding))
    with one_sentence():
        sys.stdout.write("\u8d64 caf\udce9\n")
        sys.stdout.flush()
    name = "\u8d64" if encoding == "utf-8" else "\\u8d64"
    assert printed.getvalue().decode(encoding) == f"{name} caf\\udce9\n"
