"""`promptvision fit` on folders of drawn images: whole walks, resumption, and mistakes."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from own_images import COLOURS, classes, image

from promptvision.data.own_reader import own_reader
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
EMBEDDED = ["--backbone", "embedded"]


def shapes(root, each, names=("disc", "square", "cross")):
    """Draw `each` images of every shape, as examples/draw_images.py does."""
    draw, chance = runpy.run_path(str(ROOT / "examples/draw_images.py"))["draw"], random.Random(1)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(each):
            draw(name, chance).save(root / name / f"{number}.png")
    return root


def results(output):
    """Return the time of writing of each result.json."""
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in output.rglob("result.json")}


@pytest.mark.parametrize(
    ("files", "reader"),
    [
        (["a/1.png", "b/1.png"], "folder"),
        (["list.csv"], "list"),
        (["list.csv", "images/1.png"], "list"),
        (["notes.csv", "a/1.png", "b/1.png"], "folder"),
        (["data-00000.arrow", "state.json"], "hub_folder"),
        (["train/0.parquet"], "hub_folder"),
        (["train-000.tar"], "shards"),
        (["list.txt"], "folder"),
    ],
)
def test_the_reader_of_your_own_images(files, reader, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert own_reader(str(tmp_path)) == reader


def test_a_file_is_a_list(tmp_path):
    for name in ("l.csv", "l.txt", "l.zip", "l.tar.gz", "l.png", "l.docx"):
        (tmp_path / name).touch()
    assert own_reader(str(tmp_path / "l.csv")) == own_reader(str(tmp_path / "l.txt")) == "list"
    told = {
        "l.zip": "an archive: unpack it",
        "l.tar.gz": "a single archive: name the folder of the shards",
        "l.png": "a single image: name a folder",
        "l.docx": r"no list of images: name a folder of images, or a list \(.csv",
    }
    for name, reason in told.items():
        with pytest.raises(InputError, match=f"{name} is {reason}"):
            own_reader(str(tmp_path / name))
    with pytest.raises(InputError, match=r"nowhere does not exist: name a folder of images"):
        own_reader("nowhere")


@pytest.fixture
def refused(tool, tmp_path, monkeypatch):
    """`refused(images, *words)` gives the sentence in which a fit is refused."""
    monkeypatch.chdir(tmp_path)

    def call(images, *words):
        status, _, err = tool("fit", images, *EMBEDDED, *words)
        assert status == 2 and "Traceback" not in err
        return err

    return call


def test_images_that_nothing_can_be_learned_from(refused, tmp_path):
    classes(tmp_path / "one", names=["red"])
    assert "there is one class only, 'red'" in refused("one")
    classes(tmp_path / "single", each=1)
    assert "each class has one; give each class at least three" in refused("single")
    classes(tmp_path / "pairs", each=2)
    assert "beside those of the test each class has one" in refused("pairs")
    for outer in ("x", "y"):
        classes(tmp_path / "deep" / outer, each=1, names=["red", "blue"])
    assert "the classes are 'x', 'y'" not in refused("deep")  # it is on stdout, once
    classes(tmp_path / "tests/test")
    assert "12 test images only, and none to learn from" in refused("tests")
    classes(tmp_path / "more/train")
    classes(tmp_path / "more/test", names=[*COLOURS, "yellow"])
    assert "class 'yellow' has no training image" in refused("more")
    (tmp_path / "empty").mkdir()
    assert "the data root empty is empty; name a folder with one folder" in refused("empty")
    image(tmp_path / "loose/1.png")
    assert "holds images but no folders of classes" in refused("loose")
    (tmp_path / "bare.csv").write_text("path\nred/1.png\n")
    assert "bare.csv" in refused("bare.csv")


@pytest.mark.parametrize("words", [["--minutes", "-1"], ["--minutes", "0"], ["--minutes", "nan"], ["--jobs", "0"]])
def test_numbers_out_of_range(words, refused):
    assert " from 1 on" in refused("x", *words) or "takes a number above 0" in refused("x", *words)


def test_other_folders_are_not_overwritten(refused, tmp_path):
    classes(tmp_path / "mine", each=6)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").touch()
    assert "--output notes holds a.txt, which no fit wrote" in refused("mine", "--output", "notes")
    (tmp_path / "out/fit_mine").mkdir(parents=True)
    (tmp_path / "out/fit_mine/fit.json").write_text(json.dumps({"settings": {"seed": 2}}))
    assert "holds another fit: seed was 2, here it is 1" in refused("mine")


def test_runs_inside_the_images_are_refused(refused, tmp_path, monkeypatch):
    """There the next look at the images would take them for a class."""
    classes(tmp_path / "mine", each=6)
    assert "the output mine/runs is inside the folder of images mine" in refused("mine", "--output", "mine/runs")
    monkeypatch.chdir(tmp_path / "mine")
    assert f"choose one elsewhere, such as {tmp_path / 'fit_mine'}" in refused(".")
    assert not (tmp_path / "mine/out").exists()


def test_weights_that_cannot_be_had(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes(tmp_path / "mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    status, _, err = tool("fit", "mine", "--backbone", "RN50x64")
    assert status == 2 and err.endswith(
        "; name a file of weights, or --backbone embedded, a small one that needs no download"
    )
    status, _, err = tool("fit", "mine", "--backbone", "ViT-B-61")
    assert status == 2 and "unknown backbone 'ViT-B-61'" in err


@pytest.mark.slow
def test_from_a_folder_to_a_classifier(tool, tmp_path, monkeypatch):
    """The names have a space and letters beyond ASCII; one file is broken; then all is there already."""
    monkeypatch.chdir(tmp_path)
    shapes(tmp_path / "my images", 8)
    for old, new in (("disc", "runde Scheibe"), ("cross", "крест")):
        (tmp_path / "my images" / old).rename(tmp_path / "my images" / new)
    (tmp_path / "my images/square/0.png").write_bytes(b"cut short")
    status, out, err = tool("fit", "my images", *EMBEDDED, "--minutes", "60")
    assert status == 0, err
    output = tmp_path / "out/fit_my_images"
    assert "images that cannot be read: image" in out and "square/0.png" in out
    assert "5 folds" in out and "Chosen: " in out and "test images, which had no say" in out
    assert "for images that are many and near" in out and (output / "fit.md").read_text().startswith("### Candidates")
    config = (output / "best/config.yaml").read_text()
    assert "ON_BAD_IMAGE: skip" in config and "TRAIN: train+val" in config
    assert "page: out/fit_my_images/best/run.html" in out and (output / "best/run.html").is_file()
    best = json.loads((output / "best/result.json").read_text())
    assert best["split"] == "test" and best["pictures"]["train"] + best["n"] == 23
    before = results(output)
    assert len(before) > 30
    again, said, _ = tool("fit", "my images", *EMBEDDED, "--minutes", "60")
    assert again == 0 and results(output) == before and said.partition("Chosen")[2] == out.partition("Chosen")[2]
    status, out, _ = tool("predict", "--run", output / "best", "my images/square/1.png", "--json")
    assert status == 0 and json.loads(out)["top"][0]["class"] == "square"
    status, out, _ = tool("report", output)
    assert status == 0 and "All training images" in out


@pytest.mark.slow
def test_little_time_and_a_stop(tmp_path, monkeypatch):
    """With no time at all one candidate is tried; a second start, killed in the middle, keeps what is finished."""
    shapes(tmp_path / "mine", 8)
    command = [sys.executable, ROOT / "tools/fit.py", "mine", *EMBEDDED, "--output", "fit"]
    done = subprocess.run([*command, "--minutes", "0.02"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "linear probe: not tried: about" in done.stdout and "Chosen: zero-shot" in done.stdout
    before = results(tmp_path / "fit")
    assert len(before) == 6
    with subprocess.Popen([*command, "--minutes", "60"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        while len(results(tmp_path / "fit")) < 15:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate()
        assert process.returncode == 143 and said.endswith("stopped: the same command resumes\n")
    middle = results(tmp_path / "fit")
    assert before.items() <= middle.items()
