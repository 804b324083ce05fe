"""Damaged and foreign files of tensors: learned ones, features, and weights of backbones."""

import json

import numpy as np
import pytest
import torch
from fuzzing import cuts, damaged, edits, fuzzed, refused, tensors, values, words
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer

import coop
from promptvision.backbones.conversion import fill_from_npz
from promptvision.backbones.weights import read_weights
from promptvision.engine.best_epoch import kept
from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.experiment import feature_file


@pytest.mark.fault("parsing")
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_learned_tensors(scratch, changes, length):
    path = scratch / "learned.safetensors"
    state, facts = {"prompt": torch.arange(6.0)}, {"classes": ["a"], "kept": '{"epoch": 1, "accuracy": 2.0}'}
    save_learned(path, state, facts)
    good = load_learned(path)[1]
    path.write_bytes(damaged(path.read_bytes(), changes, length))
    named = b'"sha256"' in path.read_bytes()  # else it is a file without a checksum
    if not refused(path, load_learned) and named:
        found, metadata = load_learned(path)
        assert torch.equal(found["prompt"], state["prompt"]) and metadata == good
    refused(path, kept)


headers = st.dictionaries(
    words | st.just("__metadata__"),
    values | st.fixed_dictionaries({"dtype": words, "shape": st.lists(st.integers()), "data_offsets": values}),
    max_size=3,
)


@pytest.mark.fault("parsing")
@fuzzed
@given(header=headers, size=st.none() | st.integers(0, (1 << 64) - 1), metadata=st.dictionaries(words, st.text()))
def test_safetensors_made_up(scratch, header, size, metadata):
    path = scratch / "best.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + bytes(16))
    for read in (load_learned, kept, lambda file: feature_file.read(file, "key")):
        refused(path, read)
    made = {"classes": '["a"]', "kept": "{}", **{k: v for k, v in metadata.items() if k != "sha256"}}
    path.write_bytes(save({"a": torch.ones(1)}, {k.encode("utf-8", "replace").decode(): v for k, v in made.items()}))
    refused(path, kept)


@pytest.mark.fault("results")
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_features_are_not_used(scratch, changes, length):
    path, features = scratch / "features.safetensors", torch.arange(12.0).reshape(3, 4)
    feature_file.write(path, "key", 3, iter([features[:2], features[2:]]))
    path.write_bytes(damaged(path.read_bytes(), changes, length))
    found = feature_file.read(path, "key")
    assert found is None or torch.equal(found, features)


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory):
    """Files of weights: as torch saves them, as numpy does, compressed and not."""
    folder, arrays = tmp_path_factory.mktemp("weights"), {"embedding/kernel": np.ones((2, 2), np.float32)}
    torch.save({"state_dict": {"ctx": torch.ones(2, 3), "b": torch.ones(3)}, "epoch": 1}, folder / "w.pth")
    torch.save({"a": torch.ones(2, 3)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(folder / "w.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_any_weights(path):
    if path.suffix == ".npz":
        fill_from_npz(TINY_VIT, path)
    else:
        read_weights(path)


TINY_VIT = VisionTransformer(img_size=8, patch_size=4, embed_dim=4, depth=1, num_heads=1, num_classes=0)


@pytest.mark.parametrize("name", ["w.pth", "old.pt", "w.npz", "packed.npz"])
@fuzzed
@given(changes=edits, length=cuts)
def test_damaged_weights(scratch, weight_files, name, changes, length):
    path = scratch / name
    path.write_bytes(damaged(weight_files[name], changes, length))
    refused(path, read_any_weights)
    refused(path, coop.load_checkpoint)


@fuzzed
@given(content=values | tensors | st.dictionaries(words | st.integers(), values | tensors, max_size=4))
def test_weights_with_foreign_contents(scratch, content):
    path = scratch / "foreign.pth"
    for whole in (content, {"state_dict": content}):
        torch.save(whole, path)
        refused(path, read_weights)
        refused(path, coop.load_checkpoint)
