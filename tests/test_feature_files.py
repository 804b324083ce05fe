"""Files of features: rebuilt when damaged, never those of another tower, claimed by one process."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tower_features import Tower, directly, get

from promptvision.backbones.fingerprint import fingerprint
from promptvision.experiment import feature_file
from promptvision.experiment.feature_file import cache_folder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_features_keep_their_dtype_and_lie_aligned(dtype, tmp_path):
    rows = torch.randn(6, 3).to(dtype)
    feature_file.write(tmp_path / "a.safetensors", "key", 6, iter([rows[:4], rows[4:]]))
    read = feature_file.read(tmp_path / "a.safetensors", "key")
    assert read.dtype == dtype and torch.equal(read, rows) and read.data_ptr() % 8 == 0
    assert torch.equal(load_file(tmp_path / "a.safetensors")["features"], rows)


def weight(tower):
    tower.conv.weight.view(-1)[7] += 1e-6


def unseen_weight(tower):
    tower.conv.weight.data[0, 0, 0, 0] *= 1.0001


def attribute(tower):
    tower.slope = 0.25


def submodule(tower):
    tower.act = nn.ReLU()


def hook(tower):
    tower.conv.register_forward_hook(lambda module, args, out: out + 1)


def buffer(tower):
    tower.register_buffer("shift", torch.ones(1), persistent=False)


@pytest.mark.fault("results")
@pytest.mark.parametrize("change", [weight, unseen_weight, attribute, submodule, hook, buffer, lambda t: t.half()])
def test_another_tower_is_told_apart(change, photos, tmp_path):
    assert fingerprint(Tower()) == fingerprint(Tower()) != fingerprint(Tower(1))
    tower = Tower()
    change(tower)
    assert fingerprint(tower) != fingerprint(Tower())
    if next(tower.parameters()).dtype == torch.float32:
        get(photos, tmp_path)
        features, source = get(photos, tmp_path, tower)
        assert source == "computed" and torch.equal(features, directly(photos, tower))


def cut(content):
    return content[:-3]


def cut_header(content):
    return content[:40]


def flipped(content):
    return content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]


def other_key(content):
    return content.replace(b"fp32", b"fp16", 1)


def other_dtype(content):
    return content.replace(b'"F32"', b'"I32"', 1)


def other_shape(content):
    return content.replace(b"[14, 5]", b"[7, 10]", 1)


DAMAGES = [cut, cut_header, flipped, other_key, other_dtype, other_shape, lambda c: b"", lambda c: b"\xff" * 99]


@pytest.mark.fault("results")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_rebuilt(damage, photos, tmp_path, caplog):
    features, _ = get(photos, tmp_path / "c")
    (file,) = (tmp_path / "c").iterdir()
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    again, source = get(photos, tmp_path / "c")
    assert source == "computed" and torch.equal(again, features) and file.read_bytes() == whole
    assert [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]


@pytest.mark.fault("results")
def test_a_foreign_file_is_rebuilt(photos, tmp_path):
    features, _ = get(photos, tmp_path / "c")
    (file,) = (tmp_path / "c").iterdir()
    save_file({"features": torch.zeros(14, 5)}, file)
    again, source = get(photos, tmp_path / "c")
    assert source == "computed" and torch.equal(again, features)


@pytest.mark.fault("results")
def test_no_changed_byte_goes_unnoticed(tmp_path):
    """Every byte of the rows, and many of the header: what is read is what was written, or nothing."""
    path, rows = tmp_path / "a.safetensors", torch.randn(4, 3)
    feature_file.write(path, "a key", 4, iter([rows]))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(random.integers(1, 256))]) + whole[place + 1 :])
        found = feature_file.read(path, "a key")
        assert found is None or (place < len(whole) - 48 and torch.equal(found, rows))


@pytest.mark.fault("files")
def test_a_claim_dies_with_its_process(tmp_path):
    path, (ready, told) = tmp_path / "c/a.safetensors", os.pipe()
    child = os.fork()
    if child == 0:
        with feature_file.claimed(path):
            os.write(told, b"x")
            time.sleep(60)
    os.read(ready, 1)
    threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
    with feature_file.claimed(path) as waited:
        assert waited
    os.waitpid(child, 0)
    with feature_file.claimed(path) as waited:
        assert not waited


@pytest.mark.fault("files")
def test_what_killed_processes_left_is_removed_in_the_end(photos, tmp_path):
    old, young = tmp_path / ".a.safetensors.x1", tmp_path / ".a.safetensors.x2"
    for file, age in ((old, 90_000), (young, 10)):
        file.write_bytes(b"part")
        os.utime(file, (time.time() - age,) * 2)
    get(photos, tmp_path)
    assert young.exists() and not old.exists()


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTVISION_CACHE", str(tmp_path))
    assert cache_folder("auto") == tmp_path / "features" and cache_folder("") is None
    assert cache_folder("some/where").parts == ("some", "where", "features")
    monkeypatch.delenv("PROMPTVISION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder("auto") == tmp_path / "x" / "promptvision" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("auto") == tmp_path / "home" / ".cache" / "promptvision" / "features"
