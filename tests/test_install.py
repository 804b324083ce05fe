"""The wheel: what it holds, and the command `promptvision`, installed outside the checkout and inside it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CHECKOUT_ONLY = {"bench", "docs", "pretrain"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the checkout, where no earlier build is left over."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("promptvision", "coop", "vpt", "datasets", "configs", "tools"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder]
    subprocess.run([*command, folder / "source"], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def files(folder, pattern):
    return {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob(pattern)}


def test_wheel_holds_packages_cards_configs_and_commands(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"promptvision", "vpt", "coop"}
    held = {
        part: {name.removeprefix(f"promptvision/{part}/") for name in names if name.startswith(f"promptvision/{part}/")}
        for part in ("datacards", "configs", "commands")
    }
    assert held["datacards"] == files("datasets", "*.*") and any(name.endswith(".txt") for name in held["datacards"])
    assert held["configs"] == files("configs", "*.yaml") and "vpt/grids/embedded.yaml" in held["configs"]
    assert held["commands"] == {p.name for p in (ROOT / "tools").glob("*.py") if p.stem not in CHECKOUT_ONLY}
    assert "promptvision/backbones/embedded.safetensors" in names and "promptvision/py.typed" in names
    assert "promptvision/data/prepare/few_shot_fingerprints.tsv" in names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel, beside another package called `datasets`, as Hugging Face's is."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "datasets").mkdir()
    (folder / "datasets/__init__.py").write_text("name = 'the other one'\n")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", folder, wheel]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def call(installed, tmp_path):
    """`call("train", ...)` runs the installed command in an empty folder and gives what it prints."""

    def call(*words, status=0):
        command = [sys.executable, installed / "bin/promptvision", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    return call


def test_installed_beside_another_package_called_datasets(installed):
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import datasets, promptvision\n"
        "from promptvision.data.cards import card_folder, card_names\n"
        "from promptvision.backbones import load_clip\n"
        "load_clip('embedded')\n"
        "print(datasets.name, promptvision.__file__, card_folder(), 'world_shapes' in card_names())"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=installed, env=env).stdout
    assert said.startswith("the other one") and said.strip().endswith("True")
    assert str(installed / "promptvision" / "datacards") in said


@pytest.mark.slow
def test_installed_command_trains_evaluates_and_predicts(call, installed, tmp_path):
    words = ["DATASET.SHOTS", "1", "OPTIM.EPOCHS", "2", "OUTPUT_DIR", "out"]
    call("train", "--config", "coop/embedded.yaml", *words)
    assert f"code in {installed / 'promptvision'}\n" in (tmp_path / "out/log.txt").read_text()
    assert json.loads((tmp_path / "out/result.json").read_text())["method"] == "coop"
    call("eval", "--run", "out", "TEST.SPLIT", "val")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    assert len(json.loads(call("predict", "--run", "out", "a.png", "--json", "--top", "2"))["top"]) == 2


def test_installed_command_explains_itself(call):
    listed = call()
    commands = {line.split()[0] for line in listed.splitlines()[2:]}
    assert listed == call("--help") and "train" in commands and not commands & CHECKOUT_ONLY
    assert call("--version") == "promptvision 0.2.0\n"
    assert call("trian", status=2) == "error: unknown command 'trian'; did you mean 'train'?\n"
    assert call("help", "OPTIM.EPOCHS") == "OPTIM.EPOCHS (50): Number of epochs.\n"
    said = call("train", "--help")
    assert call("help", "train") == said and call("help") == listed
    assert said.startswith("usage: promptvision train ") and "tools/" not in said
    said = call("train", "--config", "coop/embedded.yaml", "INPUT.CACHE", "nowhere", status=2)
    assert said.endswith("make it by `promptvision data cache`\n")
    assert "`promptvision data show NAME`" in call("data", "list") and "tools/" not in call(
        "data", "show", "hub_folder"
    )
    said = call("train", "--config", "coop/embeded.yaml", status=2)
    assert said == "error: config file coop/embeded.yaml does not exist; did you mean coop/embedded.yaml?\n"


def test_the_command_of_a_checkout_runs_its_tools(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "promptvision"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=env).stdout
    commands = {line.split()[0] for line in listed.splitlines()[2:]}
    assert commands == {path.stem for path in (ROOT / "tools").glob("*.py")}
    words = ["train", "--config", "configs/coop/embedded.yaml", "OPTIM.LRR", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 2 and "did you mean OPTIM.LR?" in done.stderr


def test_the_library_names_commands_that_exist(installed, tmp_path):
    text = "torchrun --nproc-per-node 4 tools/train.py; `python tools/data.py cache`, tools/eval.py"
    code = f"from promptvision.errors import as_called; print(as_called({text!r}))"
    said = {}
    for folder in (ROOT, installed):
        env = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=env
        )
        said[folder] = done.stdout.strip()
    assert said[ROOT] == text
    wanted = "torchrun --nproc-per-node 4 -m promptvision train; `promptvision data cache`, promptvision eval"
    assert said[installed] == wanted


def test_every_sentence_with_a_command_says_it_as_called():
    """A string with `tools/x.py` is a docstring, which is for readers of the code, or an argument of `as_called`."""
    for package in ("promptvision", "coop", "vpt", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name in ("docs.py", "docs_page.py", "bench_kill.py"):  # pages and a benchmark of the checkout
                continue
            tree = ast.parse(path.read_text())
            told = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            free = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for call in ast.walk(tree):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "as_called":
                    free |= {id(node) for node in ast.walk(call)}
            stray = [node.value for node in told if id(node) not in free and re.search(r"tools/\w+\.py", node.value)]
            assert not stray, f"{path}: {stray}"
