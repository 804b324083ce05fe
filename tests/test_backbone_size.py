"""The image size of a preset is that of its backbone, and a run says how many of the images it uses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from promptvision.config import load_config
from promptvision.config.families import FAMILIES

ROOT = Path(__file__).parents[1]
VIT_B16 = ROOT / "configs/coop/vit_b16.yaml"


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ([], 224),
        (["BACKBONE.NAME", "ViT-B-16"], 224),
        (["BACKBONE.NAME", "embedded"], 0),
        (["BACKBONE.NAME", "embedded", "INPUT.SIZE", "64"], 64),
        (["INPUT.SIZE", "336"], 336),
    ],
)
def test_another_backbone_takes_its_own_image_size(words, size):
    assert size == load_config(VIT_B16, words, FAMILIES).INPUT.SIZE


def test_a_size_in_a_file_that_names_no_backbone_is_kept(tmp_path):
    (tmp_path / "c.yaml").write_text("INPUT: {SIZE: 64}\n")
    assert load_config(tmp_path / "c.yaml", ["BACKBONE.NAME", "ViT-B-16"], FAMILIES).INPUT.SIZE == 64


@pytest.mark.parametrize(
    ("files", "words", "size"),
    [
        ("BACKBONE: {NAME: embedded}", [], 0),
        ("BACKBONE: {NAME: ViT-B-16}", [], 224),
        ("BACKBONE: {NAME: embedded}\nINPUT: {SIZE: 64}", [], 64),
        ("BACKBONE: {NAME: embedded}", ["INPUT.SIZE", "64"], 64),
        ("INPUT: {SIZE: 64}", ["BACKBONE.NAME", "embedded"], 64),
        ("BACKBONE: {NAME: embedded}\nINPUT: {SIZE: 64}", ["BACKBONE.NAME", "ViT-B-32"], 0),
        ("BACKBONE: {NAME: embedded}\n---\nSEED: 2", [], 0),
        ("BACKBONE: {NAME: embedded}\n---\nINPUT: {SIZE: 64}", [], 64),
        ("INPUT: {SIZE: 64}\n---\nBACKBONE: {NAME: embedded}", [], 64),
        ("BACKBONE: {NAME: embedded}\nINPUT: {SIZE: 64}\n---\nBACKBONE: {NAME: ViT-B-32}", [], 0),
    ],
)
def test_a_file_with_another_backbone_than_its_base_takes_that_image_size(tmp_path, files, words, size):
    base = VIT_B16
    for number, content in enumerate(files.split("---\n")):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {base}\n{content}\n")
        base = tmp_path / f"{number}.yaml"
    assert size == load_config(base, words, FAMILIES).INPUT.SIZE


def test_a_preset_on_the_embedded_backbone_runs_at_its_size(tool, tmp_path):
    words = ["BACKBONE.NAME", "embedded", "BACKBONE.PRETRAINED", "default", "DATASET.NAME", "digits"]
    words += ["DATASET.SHOTS", "1", "OPTIM.EPOCHS", "0", "OUTPUT_DIR", tmp_path / "run"]
    status, _, err = tool("train", "--config", VIT_B16, *words)
    assert status == 0, err
    assert json.loads((tmp_path / "run/result.json").read_text())["image_size"] == 32


def test_log_and_result_say_how_many_images_are_used(tool, tmp_path):
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), colour).save(tmp_path / "own" / split / name / f"{number}.png")
    words = ["DATASET.NAME", "folder", "DATASET.ROOT", tmp_path / "own", "OPTIM.EPOCHS", "1"]
    for shots, train, val in ((2, 4, 4), (0, 10, 6)):
        run = tmp_path / f"run{shots}"
        command = ["--config", ROOT / "configs/coop/embedded.yaml", *words, "DATASET.SHOTS", shots, "OUTPUT_DIR", run]
        status, _, err = tool("train", *command)
        used = f"{train} train, {val} val, 4 test of 10 train, 6 val, 4 test"
        said = f"Images used: {used} (DATASET.SHOTS {shots}; 0 takes all)"
        assert status == 0 and said in err and said in (run / "log.txt").read_text()
        result = json.loads((run / "result.json").read_text())
        assert result["pictures"] == {"train": train, "val": val, "test": 4, "unlabelled": 0}
        assert result["pictures_found"] == {"train": 10, "val": 6, "test": 4, "unlabelled": 0}
