"""Models of transformers as image towers: transformers' own features, and prompts and LoRA on them."""

import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers_layers import SIZES, compare, hf, randomized

import coop
import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.config import load_config
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import retest, run

FAMILIES = {"coop": coop, "vpt": vpt}
CONVNEXT = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=64)
REGISTERS = dict(num_register_tokens=2)
MODELS = {
    "ViTModel": ("ViT", {}),
    "ViTModel without pooler and biases": ("ViT", dict(qkv_bias=False, hidden_act="quick_gelu")),
    "Dinov2Model": ("Dinov2", {}),
    "Dinov2Model with SwiGLU": ("Dinov2", dict(use_swiglu_ffn=True)),
    "Dinov2WithRegistersModel": ("Dinov2WithRegisters", REGISTERS),
    "DINOv3ViTModel": ("DINOv3ViT", REGISTERS),
    "DINOv3ViTModel with SwiGLU": ("DINOv3ViT", dict(use_gated_mlp=True, hidden_act="silu")),
    "CLIPVisionModel": ("CLIPVision", {}),
    "CLIPVisionModel with GELU": ("CLIPVision", dict(hidden_act="gelu")),
    "SiglipVisionModel": ("SiglipVision", {}),
    "ConvNextModel": ("ConvNext", {}),
}
VITS = [kind for kind in MODELS if kind != "ConvNextModel"]
LORA = [kind for kind in VITS if "SwiGLU" not in kind]


def model_of(kind, **other):
    name, options = MODELS[kind]
    sizes = {**(CONVNEXT if name == "ConvNext" else SIZES), **other}
    if not hasattr(hf, f"{name}Model"):
        pytest.skip(f"this transformers, {hf.__version__}, has no {name}Model")
    torch.manual_seed(0)
    extra = {"add_pooling_layer": False} if "without pooler" in kind else {}
    return randomized(getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**sizes, **options), **extra))


def pooled(kind, output):
    return output.last_hidden_state[:, 0] if kind.startswith("ViTModel") else output.pooler_output


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_transformers_own(kind):
    model = model_of(kind)
    tower, images = load_vit(model), torch.randn(2, 3, model.config.image_size, model.config.image_size)
    expected = pooled(kind, model(images))
    torch.testing.assert_close(tower(images), expected, atol=1e-5, rtol=1e-5)
    assert tower.image_size == model.config.image_size and tower.depth == (2 if kind in VITS else 0)
    half = kind.startswith(("ViTModel", "Siglip"))
    assert tower.mean[0] == (0.5 if half else pytest.approx(0.48, abs=0.01)) and tower.feature_dim == 32
    assert isinstance(getattr(*tower.stem), nn.Conv2d)


def own_layers(kind, model, images):
    """Tokens before the first layer, transformers' own layers, and features of the tokens after the last."""
    tokens = model.embeddings(images)
    if kind.startswith("CLIP"):
        return tokens, model.encoder.layers, lambda tokens: model.post_layernorm(tokens[:, 0])
    if kind.startswith("Siglip"):
        return tokens, model.encoder.layers, lambda tokens: model.head(model.post_layernorm(tokens))
    if kind.startswith("DINOv3"):
        positions = model.rope_embeddings(images)
        layers = [lambda tokens, own=own: own(tokens, position_embeddings=positions) for own in model.model.layer]
        return tokens, layers, lambda tokens: model.norm(tokens)[:, 0]
    layers = model.layers if kind.startswith("ViT") else model.encoder.layer
    return tokens, layers, lambda tokens: model.layernorm(tokens)[:, 0]


@pytest.mark.parametrize("way", ["auto", "plain"])
@pytest.mark.parametrize("kind", VITS)
def test_deep_prompts_are_those_of_transformers_own_layers(kind, way):
    model, images = model_of(kind), torch.randn(2, 3, 32, 32)
    tower = load_vit(model, compute=Compute(way))
    method = vpt.build("prompt", tower, ["a", "b"], num_tokens=3, deep=True)
    tokens, layers, features = own_layers(kind, model, images)
    for index, (layer, prompts) in enumerate(zip(layers, method.prompts(2), strict=True)):
        rest = tokens[:, tower.prefix + (3 if index else 0) :]
        tokens = torch.cat([tokens[:, : tower.prefix], prompts.expand(2, -1, -1), rest], dim=1)
        tokens = model.pre_layrnorm(tokens) if kind.startswith("CLIP") and not index else tokens
        tokens = layer(tokens, attention_mask=None) if kind.startswith(("CLIP", "Siglip")) else layer(tokens)
    tokens = torch.cat([tokens[:, : tower.prefix], tokens[:, tower.prefix + 3 :]], dim=1)
    learned = [each for name, each in method.named_parameters() if "prompt" in name and each.requires_grad]
    compare(method.features(images), features(tokens), learned)


@pytest.mark.parametrize("kind", LORA)
def test_lora_changes_transformers_weights(kind):
    model, images = model_of(kind), torch.randn(2, 3, 32, 32)
    method = vpt.build("lora", load_vit(model), ["a", "b"], rank=2, targets=["q", "k", "v", "o"])
    own, weights = dict(model.named_parameters()), {}
    for index, block in enumerate(method.blocks):
        for target, change in block.items():
            nn.init.normal_(change.lora_B, std=0.1)
            names = (f".{index}.{part}.{target}_proj.weight" for part in ("attention", "self_attn"))
            names = (*names, f".{index}.self_attn.out_proj.weight" if target == "o" else "\0")
            (name,) = (name for name in own if f".{name}".endswith(tuple(names)))
            weights[name] = own[name].detach() + change.product()
    expected = pooled(kind, functional_call(model, weights, (images,)))
    compare(method.features(images), expected, list(method.blocks.parameters()))


def test_another_size_takes_resized_positions():
    model = model_of("ViTModel")
    images = torch.randn(1, 3, 48, 48)
    expected = model(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    tower = load_vit(model, image_size=48, resize="bicubic")
    torch.testing.assert_close(tower(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ViTModel", "Dinov2Model", "DINOv3ViTModel", "CLIPVisionModel", "SiglipVisionModel"])
def test_pixels_that_the_patch_does_not_divide_are_left_out(kind):
    model, images = model_of(kind, image_size=36), torch.randn(2, 3, 36, 36)
    tower = load_vit(model)
    assert tower.depth == 2
    torch.testing.assert_close(tower(images), pooled(kind, model(images)), atol=1e-5, rtol=1e-5)


def test_weights_are_copies():
    model, images = model_of("Dinov2Model"), torch.randn(1, 3, 32, 32)
    tower = load_vit(model)
    before = tower(images)
    model.encoder.layer[0].norm1.weight.data.zero_()
    assert torch.equal(tower(images), before) and all(each.requires_grad for each in model.parameters())


def test_other_kinds_and_options_give_features_only():
    sizes = dict(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    tower = load_vit(hf.ResNetModel(hf.ResNetConfig(**sizes)), image_size=32)
    assert tower.feature_dim == 8 and vpt.build("linear", tower, ["a", "b"])(torch.randn(2, 3, 32, 32)).shape == (2, 2)
    model = hf.ViTModel(hf.ViTConfig(**SIZES, hidden_act="relu"))
    with pytest.raises(InputError, match="is a ViTModel with options that have no counterpart in timm"):
        vpt.build("prompt", load_vit(model), ["a", "b"])


def test_a_conversion_that_gives_other_features_is_not_used():
    model = model_of("ViTModel")
    model.layers[0].register_forward_hook(lambda layer, given, output: output * 1.1)
    assert load_vit(model).depth == 0


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_hf.py").write_text("import transformers\n\ndef build():\n    return transformers.ViTModel()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    sentences = {
        "needs_hf:build": (load_vit, "no module 'transformers'; pip install 'promptvision.hf.'"),
        "ViT-B-16-SigLIP": (load_clip, "the text tower of ViT-B-16-SigLIP is read with transformers: pip install"),
    }
    for name, (load, sentence) in sentences.items():
        with pytest.raises(InputError, match=sentence):
            load(name, "none")


OWN = """
import torch, transformers

SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)

def vit():
    torch.manual_seed(0)
    return transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, image_size=28, patch_size=7))

def clip():
    torch.manual_seed(0)
    text = dict(SIZES, max_position_embeddings=20)
    vision = dict(SIZES, image_size=28, patch_size=7)
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
"""


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_run_with_a_model_of_transformers_is_evaluated_alike(kind, tmp_path, monkeypatch):
    (tmp_path / "own_hf.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    family, method, option = {"vit": ("vpt", "prompt", "NUM_TOKENS"), "clip": ("coop", "coop", "N_CTX")}[kind]
    words = ["BACKBONE.NAME", f"own_hf:{kind}", "METHOD.FAMILY", family, "METHOD.NAME", method, "DATASET.SHOTS", 1]
    words += [f"METHOD.OPTIONS.{option}", 2, "OPTIM.EPOCHS", 1, "DATASET.NAME", "digits"]
    (tmp_path / "empty.yaml").write_text("")
    cfg = load_config(tmp_path / "empty.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "run")], FAMILIES)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert retest(cfg, FAMILIES, cfg.OUTPUT_DIR, progress=False)["accuracy"] == result["accuracy"]
