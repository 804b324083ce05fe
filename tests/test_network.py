"""Without a network: one check, and one sentence that says where a file would be and how to give a local one."""

import json
import shutil
import socket
import time
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import save_file

import promptvision.network
from promptvision.backbones import load_clip, load_vit
from promptvision.data.cards import load_card
from promptvision.data.prepare.download import download
from promptvision.errors import InputError
from promptvision.network import Source, unreachable

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No connection can be made, and no library holds weights."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def blocked(*args, **kwargs):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", blocked)
    monkeypatch.setattr(socket.socket, "connect", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)


LOADERS = {
    "timm": (lambda: load_vit("vit_base_patch16_224"), "hub/models--timm--vit_base_patch16_224", "PRETRAINED path"),
    "hub": (lambda: load_vit("hf-hub:owner/name@main"), "hub/models--owner--name does not", "PRETRAINED path"),
    "openai": (lambda: load_clip("RN50"), "hub/models--timm--resnet50_clip.openai", "PRETRAINED path"),
    "laion": (lambda: load_clip("ViT-B-32", "laion2b_s34b_b79k"), "hub/models--laion--CLIP", "PRETRAINED path"),
    "tower": (lambda: load_vit("ViT-B-16"), "hub/models--timm--vit_base_patch16_clip_224.openai", "PRETRAINED path"),
    "text": (lambda: load_clip("xlm-roberta-base-ViT-B-32", "none"), "models--xlm-roberta-base", "copy this folder"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_missing_weights_are_one_sentence_at_once(name, no_network, tmp_path):
    load, place, advice = LOADERS[name]
    started = time.monotonic()
    with pytest.raises(InputError, match="could not be downloaded: .* does not exist, and huggingface.co ") as caught:
        load()
    message = str(caught.value)
    assert place in message and advice in message and "(Network is unreachable)" in message and "\n" not in message
    assert time.monotonic() - started < 5 and list(tmp_path.iterdir()) == []


def test_official_addresses_of_clip_and_of_torch_are_looked_for_in_their_folders(no_network, tmp_path, monkeypatch):
    facts = {**get_pretrained_cfg("RN50", "openai"), "hf_hub": ""}
    monkeypatch.setattr("promptvision.backbones.clip.get_pretrained_cfg", lambda name, tag: facts)
    with pytest.raises(InputError, match="home/.cache/clip/RN50.pt does not exist, and openaipublic.azureedge.net"):
        load_clip("RN50")
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    assert Source.torch(url).place == tmp_path / "torch/hub/checkpoints/alexnet-owt-7be5be79.pth"


def test_weights_in_the_cache_need_no_network(no_network, tmp_path):
    args = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **args)
    place = tmp_path / "hub/models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("a" * 40)
    (place / "snapshots" / ("a" * 40)).mkdir(parents=True)
    kept = place / "snapshots" / ("a" * 40)
    facts = {"architecture": "vit_tiny_patch16_224", "model_args": args, "pretrained_cfg": {"num_classes": 0}}
    (kept / "config.json").write_text(json.dumps(facts))
    save_file(model.state_dict(), kept / "model.safetensors")
    tower, before = load_vit("hf-hub:owner/name"), hub.HF_HUB_OFFLINE
    assert torch.equal(tower.untouched(torch.ones(1, 3, 32, 32)), model.eval()(torch.ones(1, 3, 32, 32)))
    (kept / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"models--owner--name lacks it, and huggingface.co cannot .* give a file"):
        load_vit("hf-hub:owner/name")
    assert before is hub.HF_HUB_OFFLINE


def test_a_server_that_never_answers_costs_the_timeout(monkeypatch):
    monkeypatch.setattr(promptvision.network, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}") == "no answer within 0.3 seconds"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(2) or [])
    assert unreachable("https://huggingface.co") == "no answer within 0.3 seconds"
    assert time.monotonic() - started < 1.9


def test_a_proxy_that_is_not_there_is_no_network(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "refused" in unreachable("https://huggingface.co")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "stl10", "eurosat", "dtd"])
def test_datasets_that_cannot_be_downloaded_leave_nothing(name, no_network, tmp_path):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    started = time.monotonic()
    for source in ("official", "hub") if load_card(name).hub else ("",):
        with pytest.raises(InputError, match=r"cannot be reached.*Network is unreachable") as caught:
            download(load_card(name), str(tmp_path / "data"), source)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5 and list(tmp_path.iterdir()) == []


def test_the_command_says_it_within_ten_seconds(tool, no_network, tmp_path):
    words = ["DATASET.NAME", "digits", "DATASET.SHOTS", 1, "OUTPUT_DIR", tmp_path / "run"]
    status, _, err = tool("train", "--config", ROOT / "configs/coop/vit_b16.yaml", *words)
    assert status == 2 and "give a file: BACKBONE.PRETRAINED path/to/weights.pt" in err and "Traceback" not in err
