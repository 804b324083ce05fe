"""FacT against the numbers of its official code, and what it learns of a ViT-B/16."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.errors import InputError

CLASSES = [f"class {i}" for i in range(7)]


def test_the_official_cases(vit_mlp4, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/fact").values():
        options = dict(decomposition=facts["kind"], rank=facts["rank"], scale=facts["scale"])
        check_official(vpt.build("fact", vit_mlp4, CLASSES, **options), facts, expected)


@pytest.mark.parametrize("decomposition", ["tt", "tk"])
def test_it_starts_as_the_backbone_and_all_but_the_factors_before_v_learn_at_once(decomposition, vit_mlp4, inputs):
    method = vpt.build("fact", vit_mlp4, CLASSES, decomposition=decomposition)
    features = method.features(inputs["images"])
    torch.testing.assert_close(features, vit_mlp4(inputs["images"]), atol=1e-5, rtol=0)
    method.loss(inputs["images"], inputs["labels"]).backward()
    moving = {name for name, parameter in method.trained().items() if parameter.grad.any()}
    assert moving == {"FacTv.weight", "head.last_layer.weight", "head.last_layer.bias"}


@pytest.mark.parametrize(("decomposition", "rank"), [("tt", 16), ("tt", 8), ("tk", 32), ("tk", 16)])
def test_learned_parameters_of_a_vit_b16(decomposition, rank, vit_b16):
    """2 D r + 12 L r^2, or 2 D r + r^3 + 12 L r."""
    method = vpt.build("fact", vit_b16, CLASSES, decomposition=decomposition, rank=rank)
    own = 12 * 12 * rank**2 if decomposition == "tt" else rank**3 + 12 * 12 * rank
    assert method.learned_parameters() - 7 * 769 == 2 * 768 * rank + own


def test_dropout_is_drawn_in_training_only(vit_mlp4, golden_cases, inputs):
    facts, expected = golden_cases("vpt/fact")["tt_r4_s1"]
    method = vpt.build("fact", vit_mlp4, CLASSES, rank=4, dropout=0.5)
    state = {name: expected.get(name, value) for name, value in method.learned_state().items()}
    method.load_learned_state(state)
    images = inputs["images"]
    assert method.eval()(images).equal(method(images)) and not method.train()(images).equal(method(images))


def test_what_it_cannot_change_is_refused():
    with pytest.raises(InputError, match="unknown decomposition of FacT 'tkk'; did you mean 'tk'"):
        vpt.build("fact", load_vit("embedded"), CLASSES, decomposition="tkk")
    with pytest.raises(InputError, match="rank is 0, dropout 0.0; FacT takes 1 or more"):
        vpt.build("fact", load_clip("embedded").image, CLASSES, rank=0)
    odd = VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2.5)
    with pytest.raises(InputError, match=r"FacT cuts MLPs into parts of 16; backbone .* has \[40\]"):
        vpt.build("fact", load_vit(odd), CLASSES)
    with pytest.raises(InputError, match="'resnet18' has no blocks that FacT knows; choose a ViT"):
        vpt.build("fact", load_vit("resnet18", pretrained="none"), CLASSES)
