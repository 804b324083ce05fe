"""Test images are looked at before the first step: a dataset without any, or with a broken one, is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from promptvision.data import scan

ROOT = Path(__file__).parents[1]
CACHED, PROMPTED = ROOT / "configs/coop/embedded.yaml", ROOT / "configs/vpt/embedded.yaml"
STREAM = ROOT / "configs/vpt/embedded_l2p.yaml"
TASKS = ["CONTINUAL.TASKS", "2", "CONTINUAL.ORDER", "[]"]


@pytest.fixture
def data(tmp_path):
    """Two images of each of two classes to train and to test on."""
    for split in ("train", "test"):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (32, 32), colour).save(folder / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def train(tool, tmp_path):
    def call(config, data, *words, resume="never"):
        words = ["DATASET.NAME", "folder", "DATASET.ROOT", data, "DATASET.SHOTS", "0", "OPTIM.EPOCHS", "1", *words]
        status, _, err = tool("train", "--config", config, "--resume", resume, *words, "OUTPUT_DIR", tmp_path / "run")
        return status, err

    return call


@pytest.mark.fault("results")
@pytest.mark.parametrize(("config", "words"), [(CACHED, []), (PROMPTED, []), (STREAM, TASKS)])
def test_a_broken_test_image_is_refused_before_the_first_step(config, words, data, train, tmp_path):
    (data / "test/red/1.png").write_bytes((data / "test/red/0.png").read_bytes()[:60])
    status, err = train(config, data, *words)
    assert status == 2 and "test/red/1.png cannot be read" in err
    assert "Started:" not in err and not list((tmp_path / "run").rglob("metrics.jsonl"))
    status, err = train(config, data, *words, "INPUT.ON_BAD_IMAGE", "skip")
    assert status == 0 and json.loads((tmp_path / "run/result.json").read_text())["n"] == 3, err


@pytest.mark.parametrize("config", [CACHED, PROMPTED])
def test_a_dataset_without_test_images_is_refused_before_the_first_step(config, data, train, tmp_path):
    words = ["TEST.SPLIT", "val"]
    status, err = train(config, data, *words)
    assert status == 2 and "has no val images" in err
    assert "Started:" not in err and not (tmp_path / "run/metrics.jsonl").exists()


def test_a_resumed_run_does_not_look_again(data, train, monkeypatch):
    assert train(PROMPTED, data)[0] == 0
    monkeypatch.setattr(scan, "Workers", None)
    status, err = train(PROMPTED, data, resume="auto")
    assert status == 0, err
