"""`promptvision backbone`: what a backbone is, and which methods work on it."""

import re

import pytest

import vpt
from promptvision.backbones import load_vit
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError
from promptvision.sweep.method_trials import facts, load_all, trials


def test_a_vit_trains_every_method_of_its_family_but_those_of_swin(tool):
    status, out, err = tool("backbone", "--name", "embedded", "--method", "prompt", "swin_prompt", "coop")
    assert status == 0, err
    assert re.search(r"blocks\W+4, width 128", out) and re.search(r"forward, 2 images\W+[\d.]+ ms", out)
    assert re.search(r"prompt\W+1,538\W+[\d.]+ ms", out) and re.search(r"coop\W+2,048\W+[\d.]+ ms", out)
    assert "backbone 'embedded' is no Swin of timm (swin_*) with average pooling" in out
    assert "text blocks" in out and "linear" not in out


def test_a_function_and_a_file_of_ones_own(tool, tmp_path, monkeypatch, golden):
    (tmp_path / "own_net.py").write_text(
        "import timm\ndef build():\n    return timm.create_model('resnet10t', num_classes=0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = str(golden.root / "vpt/backbone.safetensors")
    status, out, err = tool("backbone", "--name", "own_net:build", file, "--method", "linear", "lora")
    assert status == 0, err
    assert "own_net:build (vpt)" in out and "has no blocks with attention and MLP; choose a transformer" in out
    assert re.search(r"linear\W+1,026\W+[\d.]+ ms", out) and "width 64" in out


def test_each_method_is_asked_and_answers_in_its_own_words():
    tower = load_vit("embedded")
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    found = {each.method: each for each in trials(vpt, tower, 2, ["full", "knn", "prompt", "dual_prompt"], times=1)}
    assert found["full"].step > 0 and found["prompt"].learned == 1538 and found["knn"].step is None
    assert all((before[name] == value).all() for name, value in tower.state_dict().items())
    with pytest.raises(InputError) as error:
        vpt.build("swin_prompt", load_vit("embedded"), ["a", "b"])
    assert [each.why_not for each in trials(vpt, tower, 2, ["swin_prompt"])] == [str(error.value)]
    assert facts(tower, 2)["mean"] == "0.481455, 0.457827, 0.408211"


def test_a_wrong_name_is_one_sentence(tool):
    with pytest.raises(InputError, match="unknown backbone 'vit_tny'"):
        load_all(FAMILIES, "vit_tny", "none", 0)
    for words, said in {
        ("--name", "vit_tiny_patch16_22"): "did you mean 'vit_tiny_patch16_224'",
        ("--name", "ViT-B-17"): "did you mean 'ViT-B-16'",
        ("--name", "ViT-B-16", "--pretrained", "opnai"): "did you mean 'openai'",
        ("--name", "qqq"): "one of: EVA01-g-14",
        ("--name", "embedded", "--method", "promt"): "did you mean 'prompt'",
        ("--name", "embedded", "--batch", "1"): "argument --batch: '1' is no whole number from 2 on",
    }.items():
        status, _, err = tool("backbone", *words)
        assert status == 2 and said in err
