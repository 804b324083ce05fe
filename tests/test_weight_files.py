"""Files of weights of every kind, none of which runs, and a clear sentence for every way to fail."""

import json
import sys

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from promptvision.backbones import CLIP, load_clip, load_vit
from promptvision.backbones.weights import expand_rows, read_weights
from promptvision.errors import InputError

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def openai(golden):
    state = load_file(golden.root / "coop/clip_vit_tiny.safetensors")
    return expand_rows(state, 49408) if "token_embedding.rows" in state else state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_vit_weights_of_every_kind_of_file(suffix, golden, google_layout, tmp_path):
    state = load_file(golden.root / "vpt/backbone.safetensors")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        np.savez(path, **google_layout(state, heads=4))
    args = dict(img_size=64, patch_size=16, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0)
    path.with_suffix(".json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": args}))
    _, inputs = golden("vpt/inputs")
    torch.testing.assert_close(load_vit(path)(inputs["images"]), inputs["cls_feature"], atol=5e-5, rtol=0)


def test_named_vit_with_a_local_file_and_a_classifier_left_over(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    tower = load_vit("vit_tiny_patch16_224", pretrained=tmp_path / "w.pth")
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(
        tower(images), model.eval().forward_head(model.forward_features(images), pre_logits=True)
    )


class Scripted(torch.nn.Module):
    """Nested parameters and buffers, as in an OpenAI archive."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            node = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(node, part):
                    node.add_module(part, torch.nn.Module())
                node = getattr(node, part)
            if value.is_floating_point():
                node.register_parameter(last, torch.nn.Parameter(value, requires_grad=False))
            else:
                node.register_buffer(last, value)

    def forward(self, x):
        return x


@pytest.mark.fault("code")
@pytest.mark.parametrize("half", [False, True])
def test_jit_archive_is_read_without_running_it(half, openai, golden, tmp_path, monkeypatch):
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in openai.items()}
    torch.jit.script(Scripted(state)).save(tmp_path / "ViT.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the archive was loaded as code"))
    read, _ = read_weights(tmp_path / "ViT.pt")
    assert read.keys() == openai.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    images = golden("coop/inputs")[1]["images"]
    expected = golden("coop/clip_reference_features")[1]["clip_vit_tiny.image_features"]
    torch.testing.assert_close(load_clip(tmp_path / "ViT.pt").image(images), expected, atol=2e-5, rtol=0)


def test_openai_weights_are_always_read_with_quick_gelu(openai, tmp_path):
    torch.save(openai, tmp_path / "openai.pt")
    clip = load_clip(tmp_path / "openai.pt")
    assert type(clip.image.blocks[0].mlp.gelu) is open_clip.transformer.QuickGELU
    with pytest.raises(InputError, match="QuickGELU"):
        load_clip("ViT-B-16", pretrained=tmp_path / "openai.pt", quick_gelu=False)
    with pytest.raises(InputError, match="was trained with QuickGELU"):
        load_clip("ViT-B-16", pretrained="openai", quick_gelu=False)


def test_a_file_that_does_not_tell_its_activation_is_refused(openai, tmp_path):
    markers = ("input_resolution", "context_length", "vocab_size")
    torch.save({k: v for k, v in openai.items() if k not in markers}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="other.pt does not say whether it was trained with GELU or QuickGELU"):
        load_clip(tmp_path / "other.pt")
    assert isinstance(load_clip(tmp_path / "other.pt", quick_gelu=True), CLIP)


def broken(tmp_path, content=b"not weights"):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    return path


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("code from a weight file ran",))


FAILURES = {
    "vit name": (lambda t: load_vit("vit_base_patch16_225"), "did you mean 'vit_base_patch16_224'"),
    "vit tag": (
        lambda t: load_vit("vit_base_patch16_224.augreg_in22k"),
        "did you mean 'vit_base_patch16_224.augreg_in21k'",
    ),
    "vit download": (lambda t: load_vit("vit_base_patch16_224.augreg_in21k"), "could not be downloaded.*give a file"),
    "vit file": (lambda t: load_vit("vit_tiny_patch16_224", "gone.pth"), "gone.pth.*exists"),
    "vit facts": (lambda t: load_vit(broken(t)), "needs broken.json beside it"),
    "vit broken": (lambda t: load_vit("vit_tiny_patch16_224", broken(t)), "cannot read weights from .*broken.pth"),
    "vit size": (lambda t: load_vit("embedded", image_size=50), "INPUT.SIZE 50: the 8 pixel patches .* 48 or 56"),
    "clip size": (lambda t: load_clip("embedded", image_size=5), "the 8 pixel patches .* do not divide it; take 8$"),
    "one size": (lambda t: load_vit("mixer_s32_224", "none", 64), "'mixer_s32_224' takes images of one size only"),
    "resize": (lambda t: load_vit("embedded", image_size=48, resize="tim"), "BACKBONE.RESIZE.*did you mean 'timm'"),
    "vit pool": (
        lambda t: load_vit("embedded", pool="avg"),
        "BACKBONE.POOL avg: backbone embedded has one way to pool",
    ),
    "clip pool": (lambda t: load_clip("embedded", pool="avg"), "BACKBONE.POOL avg: a CLIP has one way to pool"),
    "no such pool": (
        lambda t: load_vit("vit_base_patch16_siglip_224", "none", pool="token"),
        "backbone vit_base_patch16_siglip_224 cannot pool by BACKBONE.POOL token",
    ),
    "own weights": (
        lambda t: load_vit("embedded", "gone.pth"),
        "PRETRAINED gone.pth: BACKBONE.NAME embedded has its own",
    ),
    "own tag": (lambda t: load_clip(t / "gone.pt", "laion400m"), "PRETRAINED laion400m: .*gone.pt has its own weights"),
    "own code": (lambda t: load_clip("own:clip", "laion400m"), "BACKBONE.NAME own:clip has its own weights"),
    "clip name": (lambda t: load_clip("ViT-B-17"), "unknown CLIP backbone 'ViT-B-17'"),
    "clip tag": (lambda t: load_clip("ViT-B-16", "openia"), "did you mean 'openai'"),
    "clip file": (lambda t: load_clip(t / "gone.pt"), "no weight file .*gone.pt"),
    "clip other": (lambda t: load_clip(broken(t)), "cannot read weights from .*broken.pth"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_one_clear_sentence(case, tmp_path):
    call, sentence = FAILURES[case]
    with pytest.raises(InputError, match=sentence) as error:
        call(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_named(tmp_path, openai):
    model = timm.create_model("vit_tiny_patch16_224", depth=2).state_dict()
    torch.save(model, tmp_path / "short.pth")
    with pytest.raises(InputError, match="short.pth lacks 'blocks.2.norm1.weight'"):
        load_vit("vit_tiny_patch16_224", tmp_path / "short.pth")
    torch.save({k: v for k, v in openai.items() if k != "ln_final.weight"}, tmp_path / "half.pt")
    with pytest.raises(InputError, match="half.pt is not a CLIP checkpoint in OpenAI's layout"):
        load_clip(tmp_path / "half.pt")


@pytest.mark.fault("code")
def test_no_code_from_a_weight_file_runs(tmp_path):
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match="bomb.pth holds no named tensors"):
        read_weights(tmp_path / "bomb.pth")
    torch.save({"state_dict": Bomb()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="cannot read weights from .*old.pth"):
        read_weights(tmp_path / "old.pth")
