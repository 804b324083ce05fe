"""The README's commands, run in its order in one folder: no run that an earlier command made is lost or changed."""

import hashlib
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:python tools/\w+\.py|promptvision) .*$", README, re.M)
QUICK = {
    "train": ["OPTIM.EPOCHS", "1"],
    "tune": ["OPTIM.EPOCHS", "1"],
    "sweep": ["--only", "RUN=linear", "OPTIM.EPOCHS", "1"],
}
"""Tool -> words that make it quick."""
RUNS = {"first", "coop", "folder", "list", "l2p", "own_tower", "table/linear/seed3", "tuned/final3"}
"""Some of the runs that the commands make, below `out`."""


def words_of(command):
    """Return (tool, words) of a line of the README, on embedded weights."""
    first, *words = shlex.split(command, comments=True)
    name = Path(words.pop(0)).stem
    return name, [word.replace("coop/vit_b16.yaml", "coop/embedded.yaml") for word in words] + QUICK.get(name, [])


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the configs, and what the README takes for the user's own: images, a list, a module."""
    for place in ("my_pictures", "my", "photos", "more"):
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (tmp_path / place / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (32, 32), colour).save(tmp_path / place / name / f"{index}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "more/one.jpg")
    rows = [f"{name}/{index}.png,{name}" for name in ("red", "blue") for index in range(4)]
    (tmp_path / "my/list.csv").write_text("\n".join(["path,label", *rows]))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/my_module.py").write_text(
        "import timm\n\ndef build():\n    return timm.create_model('vit_tiny_patch16_224', img_size=32)\n"
    )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
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
        for command in COMMANDS:
            name, words = words_of(command)
            status, out, err = tool(name, *words)
            if "dtd" in words:  # whose images are not here
                assert status == (1 if name == "data" else 2) and "dtd" in out + err, command
            else:
                assert status == 0, f"{command}: {err}"
            after = finished_runs(workplace / "out")
            assert before.items() <= after.items(), command
            assert turn == 1 or after == before, command
            before = after
    assert before.keys() >= RUNS
