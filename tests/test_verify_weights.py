"""`verify` of a backbone: its tokens, the hash of its file, and its fast way."""

import re

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

import coop
import vpt
from promptvision.atomic import file_hash
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.fast_text import PackedPrompts
from promptvision.verify import weights
from promptvision.verify.check import ABSENT, DIFFERS, HOLDS
from promptvision.verify.tokens import TOKENS, known_tokens
from promptvision.verify.ways import compare_ways

NAMES = ["cat", "golden retriever", "DC-9-30"]


def test_known_tokens_are_those_of_the_official_code(golden):
    facts, tensors = golden("coop/coop/end_generic_ctx4")
    prompts = {
        f"X X X X {name.replace('_', ' ')}.": ids
        for name, ids in zip(facts["classnames"], tensors["tokenized_prompts"].tolist(), strict=True)
    }
    same = [text for text in TOKENS if text in prompts]
    assert len(same) == 3
    assert all([i for i in prompts[text] if i] == [49406, *TOKENS[text], 49407] for text in same)


def test_tokens():
    text = load_clip("embedded").text
    assert known_tokens(text).verdict == HOLDS
    text.tokenizer = SimpleTokenizer(clean="canonicalize")
    found = known_tokens(text)
    assert (
        found.verdict == DIFFERS
        and "'a photo of a cat.' has tokens [49406, 320, 1125, 539, 320, 2368, 49407]" in found.found
    )
    text.tokenizer = object()
    assert known_tokens(text).verdict == ABSENT


def test_a_file_is_compared_with_the_hash_that_its_address_states(tmp_path, monkeypatch):
    assert (
        weights.openai_files()["ViT-B-16.pt"][0].startswith("5806e77cd80f8b59")
        and weights.openai_files()["RN50.pt"][1] == "RN50"
    )
    (tmp_path / "ViT-B-16.pt").write_bytes(b"half a download")
    found = weights.check_hash(tmp_path / "ViT-B-16.pt")
    assert found.verdict == DIFFERS and "its address states 5806e77cd80f" in found.found
    (tmp_path / "mine.pt").write_bytes(b"mine")
    assert weights.check_hash(tmp_path / "mine.pt").verdict == ABSENT
    assert weights.published_name(str(tmp_path / "mine.pt"), tmp_path / "mine.pt") == str(tmp_path / "mine.pt")
    monkeypatch.setattr(weights, "openai_files", lambda: {"RN50.pt": (file_hash(tmp_path / "mine.pt"), "RN50")})
    assert weights.check_hash(tmp_path / "mine.pt").verdict == HOLDS
    assert weights.published_name(str(tmp_path / "mine.pt"), tmp_path / "mine.pt") == "RN50"


def test_a_file_of_the_hub_is_compared_with_the_hash_that_its_cache_states(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", tmp_path)
    assert weights.weight_file("ViT-B-16") is None
    place = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    blob = place / "blobs" / "7a5b5a7a1f2e5d2b6b6e6b8d4ff3e2a9d2f3a3e4c2d1f0e9d8c7b6a5f4e3d2c1"
    blob.parent.mkdir(parents=True), (place / "snapshots/main").mkdir(parents=True)
    blob.write_bytes(b"weights")
    (place / "snapshots/main/open_clip_model.safetensors").symlink_to(blob)
    file = weights.weight_file("ViT-B-16")
    assert weights.check_hash(file).verdict == DIFFERS
    whole = blob.rename(blob.with_name(file_hash(blob)))
    file.unlink(), file.symlink_to(whole)
    assert weights.check_hash(weights.weight_file("ViT-B-16")).verdict == HOLDS


def test_names_and_files_of_clips_and_of_image_towers(tmp_path):
    (tmp_path / "vit.json").write_text("{}")
    clips = {"embedded": True, "ViT-B-16": True, "a/clip.pt": True, "vit_base_patch16_224": False, "a.npz": False}
    assert {name: weights.is_clip(name) for name in clips} == clips
    assert not weights.is_clip(str(tmp_path / "vit.safetensors")) and weights.weight_file("no_such_model") is None


def compared(method, tower, images):
    return compare_ways(method, tower, images, torch.arange(len(images)), "bf16")


def test_fast_and_plain_way_of_texts(tiny_file, monkeypatch):
    clip = load_clip(tiny_file)
    torch.manual_seed(0)
    method, features = coop.build("coop", clip, NAMES, n_ctx=4), torch.randn(3, 32)
    found = compared(method, clip.text, features)
    assert found.verdict == HOLDS and re.match(
        r"fp32: relative error \d.\de-0\d, plain .*; bf16: relative", found.found
    )
    known = PackedPrompts.forward
    monkeypatch.setattr(PackedPrompts, "forward", lambda *args: known(*args) * torch.linspace(1, 1.001, 32))
    assert compared(method, clip.text, features).verdict == DIFFERS


def test_fast_and_plain_way_of_images(vit, monkeypatch):
    method, images = vpt.build("prompt", vit, NAMES, num_tokens=3, deep=True), torch.randn(3, 3, 64, 64)
    assert compared(method, vit, images).verdict == HOLDS
    known = type(vit.view(0)).finish
    monkeypatch.setattr(type(vit.view(0)), "finish", lambda self, *args: known(self, *args) * 1.0001)
    found = compared(method, vit, images)
    assert found.verdict == DIFFERS and found.found.startswith("fp32")


def test_a_tower_without_a_fast_way_is_not_compared():
    tower = load_vit("resnet10t", "none")
    assert compare_ways(nn.Identity(), tower, torch.zeros(1), torch.zeros(1), "bf16").verdict == ABSENT
