"""Backbones: the reference features, towers of every library, and how they pool."""

import json
import sys

import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer

from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.image import run_blocks
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.errors import InputError

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def vit(golden):
    return load_vit(golden.root / "vpt/backbone.safetensors")


@pytest.mark.parametrize("name", ["clip_vit_tiny", "clip_rn_tiny"])
def test_openai_file_gives_the_reference_features(name, golden):
    facts, expected = golden("coop/clip_reference_features")
    clip = load_clip(golden.root / f"coop/{name}.safetensors")
    images = golden("coop/inputs")[1]["images"]
    torch.testing.assert_close(clip.image(images), expected[f"{name}.image_features"], atol=2e-5, rtol=0)
    torch.testing.assert_close(clip.text(facts["texts"]), expected[f"{name}.text_features"], atol=2e-5, rtol=0)
    assert torch.equal(clip.text.tokenize(facts["texts"]), expected["tokens"])
    torch.testing.assert_close(
        clip.logits(clip.image(images), clip.text(facts["texts"])),
        expected[f"{name}.logits_per_image"],
        atol=1e-4,
        rtol=0,
    )


def test_vit_file_gives_the_reference_feature(vit, golden):
    _, inputs = golden("vpt/inputs")
    torch.testing.assert_close(vit(inputs["images"]), inputs["cls_feature"], atol=5e-5, rtol=0)
    assert (vit.width, vit.depth, vit.patch_size, vit.prefix, vit.image_size) == (64, 4, 16, 1, 64)


def test_steps_make_the_forward_pass(vit, golden):
    clip = load_clip(golden.root / "coop/clip_vit_tiny.safetensors").image
    images = golden("vpt/inputs")[1]["images"]
    for tower in (vit, clip, load_vit("embedded")):
        random_images = images[:, :, : tower.image_size, : tower.image_size]
        tokens = tower.enter(tower.embed(random_images))
        for block in tower.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(tower.pool(tokens), tower(random_images))


def test_backbones_come_frozen_and_in_eval_mode(vit):
    for backbone in (vit, load_clip("embedded")):
        assert not backbone.training
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


def test_random_vit_of_another_size():
    tower = load_vit("vit_tiny_patch16_224", pretrained="none", image_size=64)
    assert tower(torch.randn(1, 3, 64, 64)).shape == (1, 192)
    assert tower.image_size == 64 and tower.feature_dim == 192


def test_the_embedded_backbone_without_its_weights():
    trained, random, clip = (
        dict(image.named_parameters())
        for image in (load_vit("embedded"), load_vit("embedded", "none"), load_clip("embedded", "none").image)
    )
    matrices = [name for name, value in trained.items() if value.dim() > 1]
    assert matrices and [*trained] == [*random]
    assert not any(torch.equal(trained[name], other[name]) for name in matrices for other in (random, clip))


def test_models_without_tokens_still_give_features():
    tower = load_vit("resnet18", pretrained="none")
    assert tower(torch.randn(2, 3, 64, 64)).shape == (2, tower.feature_dim)
    with pytest.raises(InputError, match="'resnet18' has no tokens"):
        tower.embed(torch.randn(2, 3, 64, 64))


def test_own_backbone_from_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_backbones.py").write_text(
        "import timm\n\ndef tiny():\n    return timm.create_model('vit_tiny_patch16_224', img_size=32)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_vit("my_backbones:tiny")(torch.randn(1, 3, 32, 32)).shape == (1, 192)
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        load_vit("my_backbones:tinny")
    with pytest.raises(InputError, match="no module 'no_such_package'"):
        load_vit("no_such_package:build")
    with pytest.raises(InputError, match="gives a VisionTransformer"):
        load_clip("my_backbones:tiny")


def test_open_clip_by_name_with_random_weights_and_with_a_file(tmp_path):
    options = dict(embed_dim=32, quick_gelu=True)
    vision, text = dict(image_size=32, layers=1, width=64, patch_size=16), dict(width=64, heads=1, layers=1)
    (tmp_path / "my-CLIP.json").write_text(json.dumps({**options, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "my-CLIP.json")
    clip = load_clip("my-CLIP", pretrained="none")
    images = torch.randn(2, 3, 32, 32)
    assert clip.logits(clip.image(images), clip.text(["a cat", "a dog"])).shape == (2, 2)
    model = open_clip.create_model("my-CLIP")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    same = load_clip("my-CLIP", pretrained=tmp_path / "w.pt")
    torch.testing.assert_close(same.image(images), model.eval().encode_image(images))
    tokens = open_clip.tokenize(["a cat", "a dog"])
    torch.testing.assert_close(same.text(["a cat", "a dog"]), model.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_image_towers_of_clips_for_the_vit_family(tmp_path):
    vision, text = dict(image_size=32, layers=1, width=64, patch_size=16), dict(width=64, heads=1, layers=1)
    (tmp_path / "tiny-ViT.json").write_text(json.dumps(dict(embed_dim=32, vision_cfg=vision, text_cfg=text)))
    of_timm = dict(timm_model_name="resnet10t", timm_model_pretrained=False, timm_pool="avg", image_size=32)
    (tmp_path / "tiny-timm.json").write_text(json.dumps(dict(embed_dim=24, vision_cfg=of_timm, text_cfg=text)))
    for file in tmp_path.glob("*.json"):
        open_clip.add_model_config(file)
    images = torch.randn(2, 3, 32, 32)
    tower = load_vit("tiny-ViT", "none")
    assert (tower.name, tower.depth, tower.feature_dim) == ("tiny-ViT", 1, 64) and tower(images).shape == (2, 64)
    assert load_vit("tiny-ViT", "none", 64)(torch.randn(1, 3, 64, 64)).shape == (1, 64)
    for tower in (load_vit("tiny-timm", "none"), load_clip("tiny-timm", "none").image):
        assert tower.feature_dim == 24 and tower(images).shape == (2, 24)
    with torch.device("meta"):  # a name of both libraries
        assert type(load_vit("convnext_tiny", "none")).__name__ == "TimmTower"


POOLS = {
    "token": {},
    "mean": dict(pool_type="avg"),
    "norm after the mean": dict(pool_type="avg", final_ln_after_pool=True),
    "attention": dict(attentional_pool=True, attn_pooler_queries=3, attn_pooler_heads=2),
}


@pytest.mark.parametrize("kind", POOLS)
def test_a_clip_pools_its_tokens_as_open_clip_does(kind):
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=16, width=32, layers=2, heads=2, mlp_ratio=2, output_dim=32)
    tower = OpenClipImage(VisionTransformer(**sizes, **POOLS[kind])).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower.pool(run_blocks(tower, images, {})), tower.model(images))


def test_a_clip_of_an_untried_way_to_pool_is_refused_as_a_place_for_prompts():
    sizes = dict(image_size=32, patch_size=16, width=32, layers=1, heads=2, mlp_ratio=2, output_dim=32)
    tower = OpenClipImage(VisionTransformer(**sizes, attentional_pool="cascade", attn_pooler_heads=2))
    with pytest.raises(InputError, match="has no tokens to put prompts among"):
        tower.embed(torch.randn(1, 3, 32, 32))


def test_text_tower_without_causal_mask_looks_at_every_position():
    text = dict(width=32, heads=1, layers=1, context_length=8, no_causal_mask=True, pool_type="last")
    vision = dict(image_size=32, layers=1, width=64, patch_size=16)
    model = open_clip.CustomTextCLIP(16, vision, text).eval()
    from promptvision.backbones.text import OpenClipText

    tower = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "siglip-like")
    ids = tower.tokenize(["a cat", "a dog"])
    assert not tower.causal
    torch.testing.assert_close(tower.encode(tower.embed(ids), tower.eot(ids)), model.encode_text(ids))


def test_embedded_clip_knows_words_it_never_met_apart():
    clip = load_clip("embedded")
    features = clip.text(["a photo of a zebra.", "a photo of an aardvark."])
    assert not torch.allclose(features[0], features[1])
    assert torch.equal(features, load_clip("embedded").text(["a photo of a zebra.", "a photo of an aardvark."]))


def test_towers_share_a_tokenizer():
    """Texts are remembered with their tokenizer: a new one for each tower would stay in memory."""
    assert load_clip("embedded").text.tokenizer is load_clip("embedded").text.tokenizer
