"""The examples of the README and of docs/adding.md, run as they stand there."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import coop
import vpt
from promptvision.config import load_config
from promptvision.config.schema import KEYS
from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.run import retest, run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDING = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
FAMILIES = {"coop": coop, "vpt": vpt}


def block(page, language, start):
    """The code block of a page, in a language, that begins with these words."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", page, re.S) if text.startswith(start)]
    assert len(found) == 1, f"{len(found)} {language} blocks start with {start!r}"
    return found[0]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180


def test_methods_to_start_with_exist():
    rows = re.findall(r"^\| (?!you have|---)(.*?) \| (.*?) \| (.*?) \|$", README.partition("### Which method")[2], re.M)
    names = {name for row in rows for name in re.findall(r"`([a-z_]+)`", " ".join(row[1:]))}
    assert len(rows) == 9 and len(names) > 20 and names <= {*coop.METHODS, *vpt.METHODS}


def test_library_example(trained):
    code = block(README, "python", "from promptvision.backbones import load_clip, load_vit")
    code = re.sub(r"load_clip\(.*?\)", 'load_clip("embedded")', code)
    code = re.sub(r"load_vit\(.*?\)", 'load_vit("embedded")', code)
    code = code.replace('"out/coop"', repr(str(trained[0])))
    names = {"images": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1]), "photos": torch.rand(2, 3, 32, 32)}
    exec(code, names)
    assert names["logits"].shape == (2, 2) and names["loss"].dim() == 0 and set(names["state"]) == {"ctx"}
    assert names["head"](names["images"]).shape == (2, 2)
    assert [len(each) for each in names["names"]] == [5, 5]


def test_a_method_is_one_file_one_row_one_config(tmp_path):
    files = [ROOT / "coop/task_res.py", ROOT / "configs/coop/embedded_task_res.yaml"]
    method, config = block(ADDING, "python", '"""TaskRes'), block(ADDING, "yaml", "# TaskRes")
    assert [method, config] == [file.read_text() for file in files]
    rows = [line.removeprefix("+") for line in block(ADDING, "diff", "+").splitlines()]
    assert rows == [line for line in (ROOT / "coop/__init__.py").read_text().splitlines() if "TaskRes" in line]
    assert (len(method.splitlines()), len(rows), len(config.splitlines())) == (39, 1, 5)
    words = ["METHOD.OPTIONS.ALPHA", "1.0", "OPTIM.EPOCHS", 5, "DATASET.SHOTS", 2, "DATASET.NAME", "world_shapes"]
    cfg = load_config(files[1], [*words, "OUTPUT_DIR", str(tmp_path / "run")], FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["accuracy"] > 50 and result["learned_parameters"] == 24 * 128
    assert retest(cfg, FAMILIES, cfg.OUTPUT_DIR, progress=False)["accuracy"] == result["accuracy"]


def test_a_backbone_is_one_class(tmp_path, monkeypatch):
    code = block(ADDING, "python", "from promptvision.backbones import ImageTower")
    assert len([line for line in code.splitlines() if line]) == 12
    (tmp_path / "tower.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    words = ["BACKBONE.NAME", "tower:Tiny", "METHOD.NAME", "prompt", "METHOD.OPTIONS.DEEP", True, "OPTIM.EPOCHS", 1]
    words += ["DATASET.NAME", "world_shapes", "DATASET.SHOTS", 1, "OUTPUT_DIR", str(tmp_path / "run")]
    cfg = load_config(ROOT / "configs/vpt/embedded.yaml", words, FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["learned_parameters"] > 4 * 64 and result["epochs"] == 1


def test_a_dataset_is_one_card(tmp_path):
    card = tmp_path / "my_birds.yaml"
    card.write_text(block(ADDING, "yaml", "# datasets/my_birds.yaml"))
    (tmp_path / "birds/images").mkdir(parents=True)
    splits = {"train": "1.png", "val": "2.png", "test": "3.png"}
    for name in splits.values():
        Image.new("RGB", (9, 9)).save(tmp_path / "birds/images" / name)
    rows = {split: [[name, 0, "robin"]] for split, name in splits.items()}
    (tmp_path / "birds/split.json").write_text(json.dumps(rows))
    images = read(load_card(str(card)), tmp_path)
    assert images.classes == ["robin"] and images.open("1.png").size == (9, 9)


def test_a_backbone_is_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/my_module.py").write_text(
        "import timm\n\ndef build():\n    return timm.create_model('vit_tiny_patch16_224', img_size=32)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["BACKBONE.NAME", "my_package.my_module:build", "OPTIM.EPOCHS", 1, "DATASET.SHOTS", 1, "OUTPUT_DIR", "run"]
    cfg = load_config(ROOT / "configs/vpt/embedded.yaml", words, FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        assert run(cfg, FAMILIES, folder, progress=False)["learned_parameters"] > 0


def test_a_method_is_a_class_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_method_package").mkdir()
    (tmp_path / "my_method_package/my_module.py").write_text(block(ADDING, "python", '"""my_package/my_module.py'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["METHOD.NAME", "my_method_package.my_module:MyMethod", "METHOD.OPTIONS.SCALE", "5"]
    words += ["OPTIM.EPOCHS", 2, "DATASET.SHOTS", 1, "OUTPUT_DIR", "run"]
    cfg = load_config(ROOT / "configs/vpt/embedded_linear.yaml", words, FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["options"] == {"SCALE": 5.0} and result["train_features"] == "computed"


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^python tools/(\w+)\.py .*?(?=\s{2,}#|$)", README, re.M))))
def test_every_tool_named_is_there(command):
    assert (ROOT / "tools" / f"{command}.py").is_file()


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:configs|tests|docs|tools|promptvision|coop|vpt|datasets)/[\w/.]+)`", text):
        assert name == "datasets/my_birds.yaml" or (ROOT / name).exists() or (ROOT / name).with_suffix("").exists(), (
            name
        )
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_the_index_lists_every_page():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[([\w/]+\.md)\]\(\1\): ", index, re.M)
    top = ROOT / "docs"
    pages = {page.relative_to(top).as_posix() for page in [*top.glob("*.md"), *(top / "api").glob("*.md")]}
    pages.remove("index.md")
    assert sorted(listed) == sorted(pages)


def test_the_keys_for_those_of_other_codes_exist():
    page = (ROOT / "docs/from_other_codes.md").read_text(encoding="utf-8")
    ours = " ".join(line.split(" | ")[-1] for line in page.splitlines() if line.startswith("| "))
    options = {name for family in FAMILIES.values() for each in family.METHODS for name in family.options(each)}
    known = {key.name for key in KEYS} | {f"METHOD.OPTIONS.{name}" for name in options}
    found = set(re.findall(r"\b[A-Z]+(?:\.[A-Z_]+)+\b", ours))
    assert len(found) > 30 and found <= known


@pytest.mark.parametrize("family", ["coop", "vpt"])
def test_the_table_of_methods_names_the_official_code_of_each(family):
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition(f"(`{family}`)")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row[0].partition(" on ")[0])]
    assert sorted(listed) == sorted(FAMILIES[family].METHODS)
    for _, code, checked in rows:
        assert re.search(r"\w/[\w.-]+ [0-9a-f]{7}\b", code) or code == "none" and "formulas only: " in checked
        assert re.match("values|formulas only: ", checked), checked
