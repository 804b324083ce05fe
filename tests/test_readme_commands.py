"""The commands of README and docs: all are understood, and those that need nothing else run in a folder of their own.

The README's run in its order, twice: no run that an earlier command made is lost or changed. A block that cannot run
here says so in a comment, NOT_RUN.
"""

import hashlib
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.search import load_search

ROOT = Path(__file__).parents[1]
NOT_RUN = "# not run by the tests: "
COMMAND = re.compile(r"^ *(?:time )?((?:python (?:tools|examples)/\w+\.py|promptvision) .*)$", re.M)
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "tutorials"]
"""Pages whose commands are run here: test_tutorials.py runs the scripts that the tutorials are made of."""
OTHERS = [*DOCS, ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"]
QUICK = {
    "train": ["OPTIM.EPOCHS", "1"],
    "tune": ["OPTIM.EPOCHS", "1"],
    "fit": ["--backbone", "embedded", "--minutes", "60"],
    "sweep": ["--only", "RUN=linear", "OPTIM.EPOCHS", "1"],
}
"""Tool -> words that make it quick."""
OWN_TABLE = ["OPTIM.EPOCHS", "1"]
"""Words that make the sweep of examples/benchmark.yaml quick, which has six runs."""
RUNS = {"first", "coop", "folder", "list", "l2p", "own_tower", "table/linear/seed3", "tuned/final3"}
"""Some of the runs that the README's commands make, below `out`."""


def commands(page, *, runnable):
    """The commands in the blocks of a page, in its order; `runnable`: without those that cannot run here."""
    blocks = re.findall(r"^ *```(?:\w+)?\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S)
    found = [block for block in blocks if not (runnable and NOT_RUN in block)]
    return [command for block in found for command in COMMAND.findall(block)]


def words_of(command):
    """Return (name below tools/, words) of a line of a page, on embedded weights."""
    first, *words = shlex.split(command, comments=True)
    place = Path(words.pop(0))
    name = f"../examples/{place.stem}" if place.parent.name == "examples" else place.stem
    return name, [word.replace("coop/vit_b16.yaml", "coop/embedded.yaml") for word in words]


EVERY = sorted({command for page in [ROOT / "README.md", *OTHERS] for command in commands(page, runnable=False)})


@pytest.mark.parametrize("command", EVERY)
def test_every_command_is_understood(command, monkeypatch):
    """Its options exist, and so do the configs, grids and benchmarks that it names, with keys that take its values."""
    name, words = words_of(command)
    monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *words])
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    monkeypatch.chdir(ROOT)
    tool = runpy.run_path(str(ROOT / "tools" / f"{name}.py"))
    assert "main" in tool
    args = tool["arguments"]() if "arguments" in tool else None
    if name == "sweep":
        assert plan(load_cells(args.config), "out", args.overrides, FAMILIES, args.only)
    elif hasattr(args, "overrides"):
        load_config(getattr(args, "config", "base.yaml"), args.overrides, FAMILIES)
    if name == "tune":
        assert load_search(args.grid).settings()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the configs, and what the README takes for the user's own: images, a list, a module."""
    for place in ("my_images", "my", "photos", "more"):
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (tmp_path / place / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (32, 32), colour).save(tmp_path / place / name / f"{index}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "more/one.jpg")
    rows = [f"{name}/{index}.png,{name}" for name in ("red", "blue") for index in range(4)]
    (tmp_path / "paths.txt").write_text("more/one.jpg\n")
    (tmp_path / "my/list.csv").write_text("\n".join(["path,label", *rows]))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/my_module.py").write_text(
        "import timm\n\ndef build():\n    return timm.create_model('vit_tiny_patch16_224', img_size=32)\n"
    )
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def finished_runs(top):
    """Return {folder: hashes of its result and its learned tensors} of the finished runs below a folder."""
    folders = [Path(here) for here, _, files in os.walk(top) if "result.json" in files]
    return {
        folder.relative_to(top).as_posix(): [
            hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("result.json", "learned.safetensors")
        ]
        for folder in folders
    }


@pytest.mark.slow
def test_every_command_leaves_the_runs_of_all_others_intact(tool, workplace):
    """The second time every run is finished, and its result is given again."""
    before = {}
    for turn in (1, 2):
        for command in commands(ROOT / "README.md", runnable=True):
            name, words = words_of(command)
            status, out, err = tool(name, *words, *QUICK.get(name, []))
            if "dtd" in words:  # whose images are not here
                assert status == (1 if name == "data" else 2) and "dtd" in out + err, command
            else:
                assert status == 0, f"{command}: {err}"
            after = finished_runs(workplace / "out")
            assert before.items() <= after.items(), command
            assert turn == 1 or after == before, command
            before = after
    assert before.keys() >= RUNS


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in OTHERS if commands(page, runnable=True)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, tool, workplace):
    """The run `out/run` that some pages speak of exists."""
    first = "promptvision train --config coop/embedded.yaml DATASET.SHOTS 1 OUTPUT_DIR out/run"
    for command in [first, *commands(page, runnable=True)]:
        name, words = words_of(command)
        quick = OWN_TABLE if "examples/benchmark.yaml" in words else QUICK.get(name, [])
        status, _, err = tool(name, *words, *quick)
        assert status == 0, f"{command}: {err}"
