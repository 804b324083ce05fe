"""Whole runs on features in place of images: the same results, and no image looked at twice."""

import logging
import os
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file

import coop
import vpt
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.config import changed as changed_config
from promptvision.config import load_config
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import retest, run

FAMILIES = {"vpt": vpt, "coop": coop}
WORLD = ["DATASET.NAME", "world_backgrounds", "DATASET.SHOTS", 1, "TEST.SPLIT", "val"]
SHORT = ["OPTIM.EPOCHS", 3, "OPTIM.BATCH_SIZE", 4, "TRAIN.THREADS", 1]


@pytest.fixture
def seen(monkeypatch):
    """Record the number of images in each call of the embedded image tower."""
    forward, found = OpenClipImage.forward, []
    monkeypatch.setattr(OpenClipImage, "forward", lambda self, x: found.append(len(x)) or forward(self, x))
    return found


@pytest.fixture
def go(tmp_path):
    """`go("name", *overrides)` makes a run in a folder of that name with a cache shared by the test."""

    def call(name, *overrides, folder=RunFolder, resume=False):
        (tmp_path / "empty.yaml").write_text("")
        words = [*WORLD, *SHORT, "CACHE_DIR", str(tmp_path / "cache"), "OUTPUT_DIR", str(tmp_path / name), *overrides]
        cfg = load_config(tmp_path / "empty.yaml", words, FAMILIES)
        with folder(cfg.OUTPUT_DIR, resume=resume) as open_folder:
            result = run(cfg, FAMILIES, open_folder, progress=False)
            rows = [{key: row[key] for key in row if key != "seconds"} for row in read_rows(open_folder.metrics)]
        return result, rows, load_file(tmp_path / name / "learned.safetensors")

    return call


VPT = ["METHOD.FAMILY", "vpt", "OPTIM.LR", 0.1]
COOP = ["METHOD.OPTIONS.N_CTX", 2]
MODES = {
    "views": [*COOP, "TRAIN.VIEWS", 2],
    "all": [*COOP, "TRAIN.CACHE", "all"],
    "fixed": [*COOP, "INPUT.TRAIN", "center"],
    "linear": [*VPT, "METHOD.NAME", "linear", "TRAIN.VIEWS", 2],
    "tip_adapter_f": ["METHOD.NAME", "tip_adapter_f", "TRAIN.VIEWS", 2],
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_ends_the_same_with_and_without(mode, go, seen):
    words = [*MODES[mode], "TRAIN.EVAL_EVERY", 2]
    without, rows, learned = go("without", *words, "CACHE_DIR", "")
    assert (without["train_features"], without["test_features"]) == ("pictures", "pictures")
    first, first_rows, first_learned = go("first", *words)
    assert (first["train_features"], first["test_features"]) == ("computed", "computed")  # before training
    seen.clear()
    second, second_rows, second_learned = go("second", *words)
    assert (second["train_features"], second["test_features"], sum(seen)) == ("cache", "cache", 0)
    assert first_rows == second_rows and first["train_views"] == (2 if "TRAIN.VIEWS" in words else 0)
    for name, tensor in learned.items():
        torch.testing.assert_close(first_learned[name], tensor, atol=1e-6, rtol=1e-6)
        assert torch.equal(second_learned[name], first_learned[name])
    for row, other in zip(rows, first_rows, strict=True):
        assert row.keys() == other.keys() and row["step"] == other["step"] and row.get("lr") == other.get("lr")
        assert row.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-5)
    assert without["accuracy"] == first["accuracy"] == second["accuracy"]


LATER = {
    "mmrl": ["METHOD.NAME", "mmrl", "METHOD.OPTIONS.DIM", 4, "METHOD.OPTIONS.LAYERS", "[1]"],
    "mma_pp": ["METHOD.NAME", "mma_pp", "METHOD.OPTIONS.ENSEMBLE", "select", "METHOD.OPTIONS.LAYERS", "[1]"],
    "skip_tuning": ["METHOD.NAME", "skip_tuning", "METHOD.OPTIONS.START_LAYER", 1],
}


@pytest.mark.parametrize("method", LATER)
def test_what_enters_a_later_block_is_computed_once_for_each_view(method, go, monkeypatch):
    """Images are encoded for tests only."""
    words, encoded = [*LATER[method], "TRAIN.VIEWS", 2], []
    embed = OpenClipImage.embed
    monkeypatch.setattr(OpenClipImage, "embed", lambda self, x: encoded.append(len(x)) or embed(self, x))
    without, _, learned = go("without", *words, "TRAIN.CACHE", "off")
    assert sum(encoded) > without["n"]
    first, _, first_learned = go("first", *words)
    encoded.clear()
    second, _, second_learned = go("second", *words)
    found = [[each["train_features"], each["test_features"]] for each in (without, first, second)]
    assert found == [["pictures", "pictures"], ["computed", "pictures"], ["cache", "pictures"]]
    assert sum(encoded) == without["n"]
    for name, tensor in learned.items():
        torch.testing.assert_close(first_learned[name], tensor, atol=1e-5, rtol=1e-4)
        assert torch.equal(second_learned[name], first_learned[name])


def test_a_second_method_pays_nothing_for_images(go, seen):
    go("first", "TRAIN.VIEWS", 2, "METHOD.OPTIONS.N_CTX", 4)
    assert sum(seen) == 2 * 10 + 10  # two views of the training images, and those to test on
    seen.clear()
    result, _, _ = go("second", "TRAIN.VIEWS", 2, *COOP, "METHOD.OPTIONS.CSC", True)
    assert not seen and result["preparation_seconds"] < 5
    go("zero", "METHOD.NAME", "zero_shot")
    assert not seen
    go("other seed", "TRAIN.VIEWS", 2, "SEED", 2, *COOP)
    assert sum(seen) == 2 * 10 + 10


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ([], "pictures"),
        (["TRAIN.CACHE", "all"], "computed"),
        (["TRAIN.VIEWS", 1], "computed"),
        (["TRAIN.VIEWS", 1, "TRAIN.CACHE", "off"], "pictures"),
        (["INPUT.TRAIN", "vtab"], "computed"),
        (["INPUT.TRAIN", "vtab", "TRAIN.CACHE", "off"], "pictures"),
    ],
)
def test_when_training_uses_features(words, source, go):
    result, _, _ = go("run", *words, *COOP, "OPTIM.EPOCHS", 2)
    assert result["train_features"] == source and result["test_features"] == "computed"


def test_runs_on_other_choices_of_images_share_the_features_of_all(go, seen):
    words = ["TRAIN.CACHE", "images", "INPUT.TRAIN", "center", "DATASET.NAME", "digits", "DATASET.FOLDS", 3]
    first, _, _ = go("first", *words, *COOP, "OPTIM.EPOCHS", 1)
    count = sum(first["pictures_found"].values())
    assert sum(seen) == count and (first["train_features"], first["test_features"]) == ("computed", "computed")
    seen.clear()
    go("same", *words, "DATASET.SHOTS", 2, "SEED", 2, "METHOD.NAME", "linear_probe")
    words += [*COOP, "OPTIM.EPOCHS", 1, "SEED", 2]
    second, _, learned = go("second", *words)
    assert not seen and (second["train_features"], second["test_features"]) == ("cache", "cache")
    apart, _, other = go("apart", *words, "TRAIN.CACHE", "auto")
    assert sum(seen) and apart["val_hash"] == second["val_hash"] and apart["accuracy"] == second["accuracy"]
    torch.testing.assert_close(learned["ctx"], other["ctx"], atol=1e-5, rtol=1e-4)


def test_prompted_images_are_never_taken_from_a_cache(go, tmp_path):
    words = [*VPT, "METHOD.NAME", "prompt", "TRAIN.VIEWS", 1, "INPUT.TRAIN", "center"]
    result, _, _ = go("run", *words, "OPTIM.EPOCHS", 1)
    assert (result["train_features"], result["test_features"]) == ("pictures", "pictures")
    assert not (tmp_path / "cache").exists()


def test_a_run_is_tested_again_without_images(go, tmp_path, seen):
    result, _, _ = go("run", *COOP, "OPTIM.EPOCHS", 1)
    seen.clear()
    again = retest(load_config(tmp_path / "run" / "config.yaml", [], FAMILIES), FAMILIES, tmp_path / "run")
    assert not seen and again["test_features"] == "cache"
    assert all(again[key] == result[key] for key in ("accuracy", "ece", "per_class"))


class Stopped(RunFolder):
    """Gets a signal after step 4, in the middle of the second epoch."""

    def row(self, **values):
        super().row(**values)
        if values["step"] == 4 and not self.resume:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("words", [["TRAIN.VIEWS", 2], ["TRAIN.CACHE", "all"]])
def test_a_stopped_run_goes_on_exactly_even_if_the_cache_was_lost(words, go, tmp_path, seen):
    words = ["OPTIM.BATCH_SIZE", 3, *COOP, *words]
    whole = go("whole", *words)
    with pytest.raises(SystemExit, match="143"):
        go("parts", *words, folder=Stopped)
    shutil.rmtree(tmp_path / "cache")
    seen.clear()
    result, rows, learned = go("parts", *words, resume=True)
    assert sum(seen) == 2 * 10 + 10  # the views of the epochs that are left, and the images to test on
    assert rows == whole[1] and torch.equal(learned["ctx"], whole[2]["ctx"])
    assert result["loss"] == whole[0]["loss"] and result["accuracy"] == whole[0]["accuracy"]


def test_a_resumed_run_prepares_again(go):
    """CLAP's weights of the classes are no learned tensors: a resumed run computes them from the same views."""
    words = ["METHOD.NAME", "clap", "METHOD.OPTIONS.VIEWS", 2, "OPTIM.BATCH_SIZE", 3]
    whole = go("whole", *words)
    with pytest.raises(SystemExit, match="143"):
        go("parts", *words, folder=Stopped)
    _, rows, learned = go("parts", *words, resume=True)
    assert rows == whole[1] and torch.equal(learned["prototypes"], whole[2]["prototypes"])


def test_a_stopped_run_can_be_resumed_with_other_settings_of_the_computation(go):
    words = [*COOP, "COMPUTE.WAY", "fast"]
    whole = go("whole", *words)
    with pytest.raises(SystemExit, match="143"):
        go("parts", *words, folder=Stopped)
    result, rows, learned = go("parts", *COOP, "COMPUTE.WAY", "plain", "COMPUTE.CHUNK", 3, resume=True)
    assert len(rows) == len(whole[1]) and result["accuracy"] == whole[0]["accuracy"]
    torch.testing.assert_close(learned["ctx"], whole[2]["ctx"], atol=1e-5, rtol=0)


def test_a_checkpoint_with_other_views_is_refused(go):
    words = [*COOP, "TRAIN.VIEWS"]
    with pytest.raises(SystemExit):
        go("run", *words, 2, folder=Stopped)
    with pytest.raises(InputError, match="its TRAIN.VIEWS is 2, here it is 1"):
        go("run", *words, 1, resume=True)


def test_a_folder_that_cannot_be_written_costs_one_warning(go, tmp_path, caplog):
    kept, _, learned = go("kept", *COOP, "TRAIN.VIEWS", 2)
    (tmp_path / "file").write_text("")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        words = ["CACHE_DIR", str(tmp_path / "file"), "TRAIN.EVAL_EVERY", 1]
        result, _, other = go("unkept", *COOP, "TRAIN.VIEWS", 2, *words)
    assert len([record for record in caplog.records if "CACHE_DIR" in record.getMessage()]) == 1
    assert torch.equal(other["ctx"], learned["ctx"]) and result["accuracy"] == kept["accuracy"]
    assert result["train_features"] == "computed"


OWN = {
    "own_tower/__init__.py": "from own_tower.tower import Tower as build\nSCALE = 1.0\n",
    "own_tower/tower.py": """
import importlib, pathlib
import torch
from promptvision.backbones import ImageTower
from .middle import through

class Tower(ImageTower):
    name, feature_dim, image_size = "mean colour", 3, 32
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
    def forward(self, images):
        from own_tower import late, SCALE
        read = float(pathlib.Path(__file__).with_name("a.txt").read_text())
        named = importlib.import_module("own_named").VALUE
        return images.mean((2, 3)) * self.weight * late.value() * SCALE * through() * named * read
""",
    "own_tower/middle.py": "import own_far\ndef through():\n    return 1.0 * own_far.CONSTANT\n",
    "own_tower/late.py": "def value():\n    return 1.0\n",
    "own_tower/a.txt": "1.0",
    "own_far.py": "CONSTANT = 1.0\n",
    "own_named.py": "VALUE = 1.0\n",
}
"""An own backbone whose features depend on seven files."""


def forget_modules():
    for name in [name for name in sys.modules if name.partition("_")[0] == "own"]:
        del sys.modules[name]


@pytest.mark.parametrize("changed", [name for name in OWN if name != "own_tower/tower.py"])
def test_features_of_an_own_backbone_follow_every_file_that_it_reads(changed, go, tmp_path, monkeypatch):
    for name, content in OWN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    words = [*VPT, "METHOD.NAME", "linear", "BACKBONE.NAME", "own_tower:build", "OPTIM.EPOCHS", 1]
    forget_modules()
    go("run", *words)
    cfg = load_config(tmp_path / "run" / "config.yaml", ["BACKBONE.NAME", "own_tower:build"], FAMILIES)
    first = retest(cfg, FAMILIES, tmp_path / "run")
    assert first["test_features"] == "cache"
    forget_modules()
    (tmp_path / changed).write_text(OWN[changed].replace("1.0", "-1.5"))
    again = retest(cfg, FAMILIES, tmp_path / "run")
    uncached = retest(changed_config(cfg, ["CACHE_DIR", ""], FAMILIES), FAMILIES, tmp_path / "run")
    forget_modules()
    assert again["test_features"] == "computed" and again["ece"] == uncached["ece"] != first["ece"]
