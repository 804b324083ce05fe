"""Damaged and foreign checkpoints: refused by name, quickly, in little memory."""

import io
import json
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from fuzzing import cuts, damaged, edits, fuzzed, refused, tensors, values
from hypothesis import given
from hypothesis import strategies as st

from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.optim import build_optimizer
from promptvision.engine.resume import Saver, check_identity
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.method import Method


class Tiny(Method):
    def __init__(self):
        super().__init__(torch.nn.Identity(), ["a", "b"])
        self.prompt = torch.nn.Parameter(torch.ones(2, 3))


def saver(folder, name="adam"):
    method = Tiny()
    optimizer = build_optimizer(name, method.named_parameters(), 0.1, 0.1)
    method.prompt.grad = torch.ones(2, 3)
    optimizer.step()
    return Saver(folder, method, optimizer, torch.amp.GradScaler("cpu", enabled=False), 3, 2, {"METHOD": {"X": [1]}})


@pytest.fixture(scope="module")
def checkpoint(scratch):
    with RunFolder(scratch / "good") as folder:
        saver(folder).save()
    return (scratch / "good/last.ckpt").read_bytes()


def go_on(path):
    """As `fit` does: all of a checkpoint is taken over, or none; then a step can be taken."""
    with RunFolder(path.parent, resume=True) as folder:
        ours = saver(folder)
        ours.restore()
        ours.optimizer.step()


@pytest.mark.fault("parsing")
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_checkpoints(scratch, checkpoint, changes, length):
    path = scratch / "last.ckpt"
    path.write_bytes(damaged(checkpoint, changes, length))
    refused(path, go_on)


PLACES = [
    (),
    ("optimizer",),
    ("optimizer", "state"),
    ("optimizer", "state", 0),
    ("learned",),
    ("scaler",),
    ("identity",),
]


@pytest.mark.fault("parsing")
@fuzzed
@given(place=st.sampled_from(PLACES), which=st.integers(0, 9), value=values | tensors, drop=st.booleans())
def test_checkpoints_with_foreign_contents(scratch, checkpoint, place, which, value, drop):
    path = scratch / "last.ckpt"
    path.write_bytes(checkpoint)
    state = load_checkpoint(path)
    inner = state
    for name in place:
        inner = inner[name]
    names = [*inner, "new"]
    name = names[which % len(names)]
    inner.pop(name, None) if drop else inner.update({name: value})
    state.setdefault("format", "promptvision checkpoint 1")
    save_checkpoint(path, state)
    refused(path, go_on)


@pytest.mark.fault("memory")
def test_a_checkpoint_that_never_ends_is_refused(scratch, checkpoint):
    """Shared parts that look like 2^60 values when they are walked through."""
    path = scratch / "last.ckpt"
    path.write_bytes(checkpoint)
    state, endless = load_checkpoint(path), {"a": 1}
    for _ in range(60):
        endless = {"a": endless, "b": endless}
    for place in ("identity", "optimizer", "learned", "scaler", "position", "best", "training"):
        save_checkpoint(path, {**state, place: endless})
        refused(path, go_on)
    with pytest.raises(InputError, match="its identity is"):
        check_identity([endless], {"METHOD": 1})


def bombs(folder):
    """Files that would fill the memory."""
    with zipfile.ZipFile(folder / "zip.ckpt", "w", zipfile.ZIP_DEFLATED) as file, file.open("a/data.pkl", "w") as entry:
        for _ in range(150):
            entry.write(bytes(10 << 20))
    torch.save({"format": "promptvision checkpoint 1", "learned": torch.zeros(4)}, folder / "whole.ckpt")
    content = (folder / "whole.ckpt").read_bytes()
    (folder / "longs.ckpt").write_bytes(content.replace((4).to_bytes(1, "little") * 2, b"\xff\xff"))
    (folder / "header.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    shape = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    text = json.dumps({"a": shape}).encode()
    (folder / "huge.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    opcodes = pickle.PROTO + b"\x02" + b"]" + b"(" * (1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", opcodes)
        file.writestr("a/version", "3")
    (folder / "stack.ckpt").write_bytes(buffer.getvalue())
    return sorted(str(file) for file in folder.iterdir() if file.name != "whole.ckpt")


READ_ALL = """
import resource, sys
from promptvision.engine.checkpoint import load_checkpoint, load_learned
from promptvision.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        (load_checkpoint if name.endswith("ckpt") else load_learned)(name)
    except InputError as error:
        assert name in str(error)
    else:
        assert "longs" in name, name
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.fault("memory")
@pytest.mark.slow
def test_bombs_take_less_than_a_gigabyte(tmp_path):
    files = bombs(tmp_path)
    limit = 12 << 30  # of addresses, of which torch takes several without using them
    said = subprocess.run(
        [sys.executable, "-c", READ_ALL, *files],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 1000
