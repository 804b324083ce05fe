"""The command lines, from a config to predictions, and one sentence with exit status 2 for each mistake."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from promptvision.config.families import FAMILIES

ROOT = Path(__file__).parents[1]
COOP = str(ROOT / "configs/coop/embedded.yaml")
QUICK = ["OPTIM.EPOCHS", "2", "DATASET.SHOTS", "1"]
WORDS = ["METHOD.OPTIONS.CTX_INIT", "a circle on a", "OPTIM.LR", "0.02"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Somebody's folder: red and blue images of several sizes."""
    root = tmp_path_factory.mktemp("photos")
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir()
        for index in range(10):
            noise = np.random.default_rng(index).integers(-25, 25, (40 + index, 50, 3))
            Image.fromarray((np.array(colour) + noise).astype("uint8")).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def folder_run(tool, photos, tmp_path):
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", photos, "DATASET.SHOTS", "4", "OPTIM.EPOCHS", "30", *WORDS]
    status, _, err = tool("train", "--config", COOP, *words, "OUTPUT_DIR", tmp_path / "run")
    assert status == 0, err
    return tmp_path / "run"


def test_run_folder_holds_what_a_table_needs(folder_run):
    result = json.loads((folder_run / "result.json").read_text())
    assert result["accuracy"] > 80 and result["n"] == 6 and result["classes"] == ["blue", "red"]
    wanted = {"per_class_mean", "macro_f1", "ece", "learned_parameters", "seconds", "peak_memory_bytes", "train_hash"}
    assert wanted | {"templates", "test_transform", "environment", "seed"} <= result.keys()
    assert result["learned_parameters"] == 4 * 128
    rows = [json.loads(line) for line in (folder_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(30))
    assert {"config.yaml", "learned.safetensors", "last.ckpt", "log.txt"} <= {
        file.name for file in folder_run.iterdir()
    }
    assert list(folder_run.glob("events.out.tfevents.*"))
    assert "code in" in (folder_run / "log.txt").read_text()


def test_evaluate_again_gives_the_same(tool, folder_run):
    status, out, err = tool("eval", "--run", folder_run)
    assert status == 0, err
    again = json.loads((folder_run / "eval-folder-all-test.json").read_text())
    first = json.loads((folder_run / "result.json").read_text())
    assert again["accuracy"] == first["accuracy"] and again["test_hash"] == first["test_hash"]
    assert "folder-all-test" in out


def test_predict_files_folders_and_globs(tool, folder_run, photos):
    words = [photos / "red" / "0.png", photos / "blue", f"{photos}/red/[1-3].png"]
    status, out, err = tool("predict", "--run", folder_run, *words, "--top", "2", "--json")
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 1 + 10 + 3
    for row in rows:
        assert {guess["class"] for guess in row["top"]} == {"red", "blue"}
        assert sum(guess["probability"] for guess in row["top"]) == pytest.approx(1, abs=1e-5)
        assert row["top"][0]["probability"] >= row["top"][1]["probability"]
    status, out, _ = tool("predict", "--run", folder_run, photos / "red" / "0.png", "--top", "1")
    assert status == 0 and "0.png" in out and "%" in out


def test_predict_names_a_broken_image_and_keeps_the_others(tool, folder_run, photos, tmp_path):
    (tmp_path / "torn.png").write_bytes((photos / "red/0.png").read_bytes()[:100])
    status, out, err = tool("predict", "--run", folder_run, photos / "red/0.png", tmp_path / "torn.png", "--json")
    assert status == 2 and len(out.splitlines()) == 1
    assert err.startswith("error: image") and "torn.png cannot be read" in err


def test_new_classes_of_a_trained_run(tool, tmp_path):
    words = ["DATASET.NAME", "world_colour_shapes", "DATASET.CLASSES", "base", *QUICK, "OUTPUT_DIR", tmp_path / "run"]
    assert tool("train", "--config", COOP, *words)[0] == 0
    status, _, err = tool("eval", "--run", tmp_path / "run", "DATASET.CLASSES", "new")
    assert status == 0, err
    base, new = (json.loads((tmp_path / "run" / name).read_text()) for name in NEW_RESULTS)
    assert not set(base["classes"]) & set(new["classes"]) and new["accuracy"] > 100 / len(new["classes"])


NEW_RESULTS = ("result.json", "eval-world_colour_shapes-new-test.json")


def test_vit_run_refuses_other_classes(tool, tmp_path):
    config = ROOT / "configs/vpt/embedded_linear.yaml"
    words = ["DATASET.NAME", "world_shapes", "DATASET.CLASSES", "base", *QUICK, "OUTPUT_DIR", tmp_path / "run"]
    assert tool("train", "--config", config, *words)[0] == 0
    status, _, err = tool("eval", "--run", tmp_path / "run", "DATASET.CLASSES", "new")
    assert status == 2 and "tied to the classes it was trained on" in err


def test_zero_shot_learns_nothing_and_uses_the_cards_template(tool, tmp_path):
    config = ROOT / "configs/coop/embedded_zero_shot.yaml"
    assert tool("train", "--config", config, "OUTPUT_DIR", tmp_path)[0] == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["learned_parameters"] == 0 and result["templates"] == ["a {} photo."]


def test_resume_of_a_finished_run_changes_nothing(tool, tmp_path):
    words = ["--config", COOP, *QUICK, "OUTPUT_DIR", tmp_path]
    assert tool("train", *words)[0] == 0
    first = load_file(tmp_path / "learned.safetensors")["ctx"]
    assert tool("train", "--resume", "auto", *words)[0] == 0
    assert torch.equal(load_file(tmp_path / "learned.safetensors")["ctx"], first)


def test_fewer_images_than_shots_are_used_and_told(tool, photos, tmp_path):
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", photos, "DATASET.SHOTS", "16", "OPTIM.EPOCHS", "1"]
    status, _, err = tool("train", "--config", COOP, *words, "OUTPUT_DIR", tmp_path / "run")
    assert status == 0
    assert "Class 'red' has only 5 training images for 16 shots" in err


@pytest.mark.parametrize(("name", "most"), [("train", 30), ("eval", 30), ("predict", 30), ("sweep", 37), ("tune", 36)])
def test_help_fits_one_screen(tool, name, most, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = tool(name, "--help")
    assert status == 0 and len(out.splitlines()) <= most and max(map(len, out.splitlines())) <= 120
    assert "DATASET.SHOTS" in out or name == "predict"
    assert ("\n  OUTPUT_DIR" in out) == (name in ("train", "eval", "tune")), "sweep refuses it, predict takes no keys"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def empty_folder(tmp_path):
    (tmp_path / "r").mkdir()
    return tmp_path / "r"


def broken_photos(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            write(tmp_path / "torn" / name / f"{index}.jpg", "no image")
    return tmp_path / "torn"


def own_split(tmp_path, label):
    """A card of one's own whose split file has a label that is none."""
    (tmp_path / "root/own/images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "root/own/images/0.png")
    rows = [["0.png", label, "cat"]]
    write(tmp_path / "root/own/split.json", json.dumps({"train": rows, "val": rows, "test": rows}))
    return ["DATASET.ROOT", tmp_path / "root"]


MISTAKES = {
    "no config": (lambda t: ["--config", t / "gone.yaml"], "config file .*gone.yaml does not exist"),
    "base loop": (
        lambda t: [
            "--config",
            write(t / "a.yaml", "_BASE_: b.yaml"),
            write(t / "b.yaml", "_BASE_: a.yaml") and "SEED",
            "1",
        ],
        "_BASE_ .*loop",
    ),
    "python tag": (
        lambda t: ["--config", write(t / "evil.yaml", "SEED: !!python/object/apply:os.getpid []")],
        "evil.yaml is not plain YAML",
    ),
    "key": (lambda t: ["--config", COOP, "DATASET.SHOT", "4"], "did you mean DATASET.SHOTS"),
    "type": (lambda t: ["--config", COOP, "DATASET.SHOTS", "few"], "DATASET.SHOTS takes .*not 'few'"),
    "dataset": (lambda t: ["--config", COOP, "DATASET.NAME", "world_shaps"], "did you mean 'world_shapes'"),
    "method": (lambda t: ["--config", COOP, "METHOD.NAME", "cop"], "did you mean 'coop'"),
    "option": (lambda t: ["--config", COOP, "METHOD.OPTIONS.NCTX", "4"], "did you mean 'N_CTX'"),
    "backbone": (lambda t: ["--config", COOP, "BACKBONE.NAME", "ViT-B-61"], "did you mean 'ViT-B-16'"),
    "no root": (lambda t: ["--config", COOP, "DATASET.NAME", "dtd", "DATASET.ROOT", t / "gone"], "gone does not exist"),
    "empty root": (
        lambda t: ["--config", COOP, "DATASET.NAME", "folder", "DATASET.ROOT", empty_folder(t)],
        "r is empty",
    ),
    "no files": (
        lambda t: ["--config", COOP, "DATASET.NAME", "dtd", "DATASET.ROOT", write(t / "r/dtd/x.txt", "").parents[1]],
        "dataset 'dtd'.*; ",
    ),
    "no classes": (
        lambda t: ["--config", COOP, "DATASET.NAME", "folder", "DATASET.ROOT", write(t / "r/notes.txt", "").parent],
        "holds no folders of classes",
    ),
    "broken image": (
        lambda t: ["--config", COOP, "DATASET.NAME", "folder", "DATASET.ROOT", broken_photos(t), *QUICK],
        r"image .*\d.jpg cannot be read",
    ),
    "output": (
        lambda t: ["--config", COOP, "OUTPUT_DIR", write(t / "file", "") / "run"],
        "OUTPUT_DIR .* cannot be written",
    ),
    "cuda": (lambda t: ["--config", COOP, "TRAIN.DEVICE", "cuda:7"], "TRAIN.DEVICE cuda:7"),
    "label": (
        lambda t: ["--config", COOP, "DATASET.NAME", write(t / "own.yaml", OWN_CARD), *own_split(t, -3)],
        "split.json.*-3",
    ),
}
OWN_CARD = """
title: own
source: me
licence: none
where: draw it
reader: coop_split
template: "a photo of a {}."
folders: [own]
images: images
split: split.json
"""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_sentence(mistake, tool, tmp_path):
    words, sentence = MISTAKES[mistake]
    words = words(tmp_path)
    output = [] if "OUTPUT_DIR" in words else ["OUTPUT_DIR", tmp_path / "out"]
    status, _, err = tool("train", *words, *output)
    assert status == 2
    error = err[err.index("error: ") :]
    assert re.search(sentence, error), error
    assert "Traceback" not in err


def test_methods_are_listed_a_line_each(tool):
    status, out, _ = tool("methods")
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert status == 0 and listed == [name for family in FAMILIES.values() for name in family.METHODS]
    assert len(out.splitlines()) == len(listed) + 2 and max(map(len, out.splitlines())) <= 120


def test_help_explains_keys_and_methods(tool):
    assert "DATASET.SHOTS (16): Training images per class" in tool("help", "keys")[1]
    status, out, _ = tool("help", "OPTIM.WARMUP")
    assert status == 0 and [line.split()[0] for line in out.splitlines() if line[0] != " "] == [
        f"OPTIM.WARMUP_{name}" for name in ("EPOCHS", "TYPE", "LR", "RECOUNT")
    ]
    status, out, _ = tool("help", "kg_coop")
    assert status == 0 and "arXiv:2303.13283" in out and "L = L_ce" in out
    assert re.search(r"^  WEIGHT \(8.0\): the paper's lambda", out, re.M)
    assert "Learned parameters: 512 with these defaults, 10 classes" in out
    assert "depend on the backbone: backbone 'embedded' is no Swin" in tool("help", "swin_prompt")[1]
    status, _, err = tool("help", "kg_cop")
    assert (status, err) == (2, "error: unknown topic 'kg_cop'; did you mean 'kg_coop'?")
