"""Checkpoints and learned tensors, and the errors for damaged ones."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import coop
from promptvision.config import load_config
from promptvision.engine.checkpoint import load_checkpoint, load_learned, save_checkpoint, save_learned
from promptvision.errors import InputError
from promptvision.experiment.run import load_run

ROOT = Path(__file__).parents[1]
STATE = {"tensor": torch.arange(6.0).reshape(2, 3), "nested": {"list": [1, 2.5, None, "x"], "n": torch.tensor(3)}}


def test_a_checkpoint_comes_back(tmp_path):
    save_checkpoint(tmp_path / "last.ckpt", STATE)
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(state["tensor"], STATE["tensor"]) and state["nested"]["list"] == STATE["nested"]["list"]


@pytest.mark.fault("parsing")
def test_every_truncation_and_many_changed_bytes_are_refused_by_name(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, STATE)
    whole, pick = path.read_bytes(), random.Random(0)
    damaged = [whole[:length] for length in range(0, len(whole), 97)]
    for place in pick.sample(range(len(whole)), 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        try:
            state = load_checkpoint(path)
        except InputError as error:
            assert str(error).startswith(f"{path} is damaged or not a checkpoint of promptvision")
        else:  # a byte that nobody reads
            assert torch.equal(state["tensor"], STATE["tensor"]) and state["nested"]["list"] == [1, 2.5, None, "x"]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.fault("code")
def test_foreign_files_are_refused_and_run_no_code(tmp_path):
    path, touched = tmp_path / "last.ckpt", str(tmp_path / "touched")
    torch.save({"format": Evil(touched)}, path)
    evil, other, archive = path.read_bytes(), io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {}}, other)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    for content in (evil, pickle.dumps(Evil(touched)), other.getvalue(), archive.getvalue(), b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged or not a checkpoint of promptvision: delete it to"):
            load_checkpoint(path)
    assert not os.path.exists(touched)
    with pytest.raises(InputError, match="checkpoint .*gone.ckpt does not exist"):
        load_checkpoint(tmp_path / "gone.ckpt")


def test_learned_tensors_come_back_with_their_facts(tmp_path):
    path = tmp_path / "learned.safetensors"
    facts = {"classes": ["kitten", "a, b", 'Ü"'], "family": "coop", "config": "SEED: 1\n"}
    save_learned(path, {"ctx": torch.randn(4, 6).t(), "half": torch.ones(2, dtype=torch.float16)}, facts)
    state, metadata = load_learned(path)
    assert state["ctx"].shape == (6, 4) and state["half"].dtype == torch.float16
    assert {name: metadata[name] for name in facts} == facts


def test_the_same_learned_tensors_make_the_same_file(tmp_path):
    facts = {"classes": ["a"], **{name: name for name in "bcdefgh"}}
    state = {name: torch.full((3,), float(i)) for i, name in enumerate("xyzw")}
    for name in ("one", "two"):
        save_learned(tmp_path / name, state, facts)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_learned(tmp_path / "one")[0].items())


def test_a_method_that_learned_nothing_has_a_file_too(tmp_path):
    save_learned(tmp_path / "a.safetensors", {}, {"classes": ["a"]})
    assert load_learned(tmp_path / "a.safetensors")[0] == {}


@pytest.mark.fault("parsing")
def test_wrong_files_of_learned_tensors_are_named(tmp_path):
    path = tmp_path / "learned.safetensors"
    with pytest.raises(InputError, match="learned.safetensors does not exist; has the run finished?"):
        load_learned(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(InputError, match="was not written by promptvision: its metadata lacks 'classes'"):
        load_learned(path)
    save_file({"a": torch.ones(1)}, path, {"classes": "["})
    with pytest.raises(InputError, match="is damaged: its metadata 'classes' is not JSON"):
        load_learned(path)
    save_learned(path, STATE | {"nested": torch.ones(3)}, {"classes": ["a"]})
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="learned.safetensors is damaged or not a safetensors file"):
            load_learned(path)


@pytest.mark.fault("parsing")
def test_classes_that_are_no_list_of_names_are_refused(tmp_path):
    path = tmp_path / "learned.safetensors"
    for classes in ("{}", "[1]", '"ab"'):
        save_file({"a": torch.ones(1)}, path, {"classes": classes})
        with pytest.raises(InputError, match="its classes are not a list of names"):
            load_learned(path)


ITSELF = "&a {DATASET: {}, METHOD: *a}"


@pytest.mark.fault("parsing")
@pytest.mark.parametrize("key", ["config", "task", "tasks"])
@pytest.mark.parametrize("value", ["!!int x", "DATASET: null", "DATASET: {SOURCE: 3}", "[", "null", "-1", ITSELF])
def test_learned_tensors_without_a_config_are_refused_in_one_sentence(tmp_path, key, value):
    families = {"coop": coop}
    cfg = load_config(ROOT / "configs/coop/embedded.yaml", [], families)
    metadata = {"classes": ["a"], "family": "coop", "method": "coop", "backbone": "embedded", "config": "DATASET: {}"}
    save_learned(tmp_path / "learned.safetensors", {"ctx": torch.zeros(16, 128)}, {**metadata, key: value})
    with pytest.raises(InputError, match="learned.safetensors does not hold the config it was trained with"):
        load_run(cfg, families, tmp_path)
