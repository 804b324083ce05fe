"""Weight files of other projects, made on the spot from a timm model: they come back with the same features."""

import argparse

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from promptvision.backbones import load_vit
from promptvision.backbones.positions import WAYS
from promptvision.backbones.weights import read_weights
from promptvision.errors import InputError

VIT = "vit_tiny_patch16_224"
SIZES = dict(depth=2, embed_dim=48, num_heads=3)


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """timm builds the names of this file with two blocks of width 48, whatever else is asked for."""
    build = timm.create_model

    def create(name, **options):
        sizes = {} if not name.startswith(("vit", "deit", "eva")) else SIZES
        return build(name, **{**sizes, **options})

    monkeypatch.setattr(timm, "create_model", create)


def model_of(name, **options):
    torch.manual_seed(0)
    model = timm.create_model(name, **{"num_classes": 0, **options}).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def junk(*names):
    return {name: torch.randn(4, 4) for name in names}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def mae(model):
    return {"model": {**model.state_dict(), **junk("mask_token", "decoder_pos_embed", "decoder_embed.weight")}}


def moco_v3(model):
    state = {
        **prefixed("base_encoder.", model.state_dict()),
        **junk("base_encoder.head.0.weight", "predictor.0.weight"),
    }
    state |= prefixed("momentum_encoder.", {key: value + 1 for key, value in model.state_dict().items()})
    return {"epoch": 300, "arch": "vit_base", "state_dict": prefixed("module.", state), "optimizer": {"state": {}}}


def moco_v2(model):
    return {"state_dict": prefixed("module.encoder_q.", {**model.state_dict(), **junk("fc.weight")})}


def dino(model):
    student = prefixed("module.backbone.", {key: value + 1 for key, value in model.state_dict().items()})
    teacher = {**prefixed("backbone.", model.state_dict()), **junk("head.mlp.0.weight", "head.last_layer.weight_g")}
    return {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_small"), "epoch": 99}


def dino_v2(model):
    return {**model.state_dict(), **junk("mask_token")}


def dino_v2_registers(model):
    state = dino_v2(model)
    cls, position = state.pop("cls_token"), torch.randn(1, 1, 48)
    state["register_tokens"] = state.pop("reg_token")
    return {**state, "cls_token": cls - position, "pos_embed": torch.cat([position, state["pos_embed"]], dim=1)}


def dino_v2_in_training(model):
    state = {key.replace("blocks.", "blocks.0."): value for key, value in model.state_dict().items()}
    return {"teacher": {**prefixed("backbone.", state), **junk("dino_head.mlp.0.weight", "backbone.mask_token")}}


def deit(model):
    return {"model": {**model.state_dict(), **junk("head.weight", "head.bias", "head_dist.weight")}}


def deit_3(model):
    state = model.state_dict()
    return {"model": {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): state[key] for key in state}}


def open_clip(model):
    return {**prefixed("visual.trunk.", model.state_dict()), **junk("text.token_embedding.weight", "logit_scale")}


def bare(model):
    return {**model.state_dict(), **junk("head.weight", "fc.weight", "classifier.weight")}


FILES = {
    "MAE": (VIT, mae),
    "MoCo-v3": (VIT, moco_v3),
    "DINO, as trained, with settings beside the weights": (VIT, dino),
    "DINO, backbone only": (VIT, bare),
    "DINOv2": ("vit_small_patch14_dinov2", dino_v2),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", dino_v2_registers),
    "DINOv2, as trained": ("vit_small_patch14_dinov2", dino_v2_in_training),
    "DeiT": ("deit_tiny_patch16_224", deit),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", deit),
    "DeiT 3": ("deit3_small_patch16_224", deit_3),
    "timm in open_clip": ("vit_base_patch16_siglip_224", open_clip),
    "EVA-02": ("eva02_tiny_patch14_224", bare),
    "MoCo-v2": ("resnet10t", moco_v2),
    "ConvNeXt": ("convnext_atto", bare),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_other_projects(kind, tmp_path):
    name, layout = FILES[kind]
    model = model_of(name, **({"img_size": 56} if "dinov2" in name else {}))
    torch.save(layout(model), tmp_path / "weights.pth")
    size = 56 if "dinov2" in name else 0
    tower = load_vit(name, tmp_path / "weights.pth", size)
    images = torch.randn(1, 3, tower.image_size, tower.image_size)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(tower(images), expected, atol=1e-6, rtol=1e-5)


FAMILIES = [
    "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "efficientnet_lite0", "mnasnet_small",
    "tinynet_e", "lcnet_050", "ghostnet_050", "regnetx_002", "repvgg_a0", "rexnet_100",
    "levit_128s", "mobilevit_xxs", "pvt_v2_b0", "xcit_nano_12_p16_224", "poolformer_s12", "volo_d1_224",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_any_family_with_its_classifiers(name, tmp_path):
    """No layout mistakes the keys of timm's own file for its own, nor those within a file of MoCo."""
    state = timm.create_model(name, num_classes=5).state_dict()
    torch.save(prefixed("encoder_q.", state) if name == "mnasnet_small" else state, tmp_path / "w.pth")
    own = load_vit(name, tmp_path / "w.pth").model.state_dict()
    assert own and all(torch.equal(own[key], state[key]) for key in own)


def test_mae_pools_all_patches_and_norms_anew(tmp_path):
    model = model_of(VIT)
    torch.save(mae(model), tmp_path / "mae.pth")
    tower, images = load_vit(VIT, tmp_path / "mae.pth", pool="avg"), torch.randn(1, 3, 224, 224)
    tokens = model.blocks(model._pos_embed(model.patch_embed(images)))
    expected = torch.nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (48,), eps=1e-6)
    torch.testing.assert_close(tower(images), expected, atol=1e-5, rtol=1e-5)


def test_a_fine_tuned_mae_keeps_its_norm(tmp_path):
    model = model_of(VIT, global_pool="avg")
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    images = torch.randn(1, 3, 224, 224)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(load_vit(VIT, tmp_path / "mae.pth", pool="avg")(images), expected)
    with pytest.raises(InputError, match="mae.pth lacks 'norm.weight'"):
        load_vit(VIT, tmp_path / "mae.pth")


@pytest.mark.parametrize("way", WAYS)
def test_weights_of_another_size_are_resized_once(way, tmp_path):
    model = model_of(VIT, img_size=96)
    torch.save(model.state_dict(), tmp_path / "at_96.pth")
    assert load_vit(VIT, tmp_path / "at_96.pth", resize=way).image_size == 224
    same = load_vit(VIT, tmp_path / "at_96.pth", 96, resize=way)
    assert torch.equal(same.model.pos_embed, model.pos_embed)
    straight = load_vit(model, image_size=128, resize=way).model.pos_embed
    assert torch.equal(load_vit(VIT, tmp_path / "at_96.pth", 128, resize=way).model.pos_embed, straight)


def test_files_older_than_torch_1_6(tmp_path):
    state = model_of(VIT).state_dict()
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found, _ = read_weights(tmp_path / "old.pth")
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def other(key, value):
    def change(state):
        return {**{k: v for k, v in state.items() if k != key}, **({} if value is None else {key: value})}

    return change


MISFITS = {
    "narrower": (VIT, dict(embed_dim=24), r"'patch_embed.proj.weight' has shape \(24, 3, 16, 16\), the model"),
    "other patches": (VIT, dict(patch_size=32), r"'patch_embed.proj.weight' has shape \(48, 3, 32, 32\), the model"),
    "deeper": (VIT, dict(depth=3), "holds the unexpected 'blocks.2.norm1.weight'; is it a VisionTransformer of"),
    "shallower": (VIT, dict(depth=1), "lacks 'blocks.1.norm1.weight'; is it a VisionTransformer of the same"),
    "other kind": ("vit_small_patch16_dinov3", {}, "w.pth lacks 'pos_embed'; is it a VisionTransformer"),
    "no ViT": ("resnet10t", {}, "w.pth lacks 'cls_token'; is it a VisionTransformer"),
    "no square": (VIT, {}, r"'pos_embed' has shape \(1, 100, 48\), the model needs \(1, 197, 48\)|does not fit"),
    "a missing tensor": (VIT, {}, "w.pth lacks 'norm.bias'"),
}
CHANGES = {
    "no square": other("pos_embed", torch.zeros(1, 100, 48)),
    "a missing tensor": other("norm.bias", None),
}


@pytest.mark.parametrize("case", MISFITS)
def test_the_first_misfit_is_named(case, tmp_path):
    name, options, sentence = MISFITS[case]
    state = CHANGES.get(case, dict)(model_of(name, **options).state_dict())
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=sentence) as error:
        load_vit("deit3_small_patch16_224" if case == "other kind" else VIT, tmp_path / "w.pth")
    assert "\n" not in str(error.value) and "w.pth" in str(error.value)


def test_google_files(golden, google_layout, tmp_path):
    state = load_file(golden.root / "vpt/backbone.safetensors")
    arrays = google_layout(state, heads=4)
    constructor = (golden.root / "vpt/backbone.json").read_text()
    images = torch.randn(1, 3, 64, 64)
    expected = load_vit(golden.root / "vpt/backbone.safetensors")(images)
    (tmp_path / "vit.json").write_text(constructor)
    np.savez(tmp_path / "vit.npz", **arrays)
    torch.testing.assert_close(load_vit(tmp_path / "vit.npz")(images), expected)
    for published in golden.root.glob("vpt/backbone_google_layout.npz"):
        given = np.load(published)
        assert {key: given[key].shape for key in given.files} == {key: value.shape for key, value in arrays.items()}
        np.savez(tmp_path / "vit.npz", **given)
        torch.testing.assert_close(load_vit(tmp_path / "vit.npz")(images), expected)


def npz_without(arrays, part):
    return {key: value for key, value in arrays.items() if part not in key}


NPZ_MISFITS = {
    "blocks": (lambda a: npz_without(a, "encoderblock_3"), "vit.npz holds 3 blocks, the model has 4"),
    "patches": (
        lambda a: {**a, "embedding/kernel": np.zeros((32, 32, 3, 64), "f")},
        r"'embedding/kernel' has shape \(64, 3, 32, 32\) as a convolution, the model needs \(64, 3, 16, 16\)",
    ),
    "key": (lambda a: npz_without(a, "encoder_norm/scale"), "vit.npz is not an .npz of the published .*encoder_norm"),
    "nothing": (lambda a: {"other": np.zeros(3)}, "vit.npz is not an .npz of the published ViT layout"),
}


@pytest.mark.parametrize("case", NPZ_MISFITS)
def test_google_files_that_do_not_fit(case, golden, google_layout, tmp_path):
    change, sentence = NPZ_MISFITS[case]
    arrays = google_layout(load_file(golden.root / "vpt/backbone.safetensors"), heads=4)
    np.savez(tmp_path / "vit.npz", **change(arrays))
    (tmp_path / "vit.json").write_text((golden.root / "vpt/backbone.json").read_text())
    with pytest.raises(InputError, match=sentence) as error:
        load_vit(tmp_path / "vit.npz")
    assert "\n" not in str(error.value)


def test_broken_npz(tmp_path):
    (tmp_path / "vit.npz").write_bytes(b"not an archive")
    with pytest.raises(InputError, match="vit.npz is not an .npz of the published ViT layout"):
        load_vit(VIT, tmp_path / "vit.npz")


def test_safetensors_of_timm(tmp_path):
    model = model_of(VIT, num_classes=10)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 224, 224)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(load_vit(VIT, tmp_path / "model.safetensors")(images), expected)
