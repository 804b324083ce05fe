"""Adapters: Pfeiffer's against the official numbers, AdaptFormer's against its equation, on borrowed backbones."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError

CLASSES = [f"class {i}" for i in range(7)]


def randomised(method):
    torch.manual_seed(1)
    for parameter in method.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return method


def test_pfeiffer_as_published(vit, inputs, golden_cases, check_step):
    for expected in (tensors for _, tensors in golden_cases("vpt/adapter").values()):
        reduction = 64 // len(expected["blocks.0.adapter_downsample.weight"])
        method = vpt.build("adapter", vit, CLASSES, reduction=reduction).train()
        state = {f"head.last_layer.{part}": inputs[f"head.{part}"] for part in ("weight", "bias")}
        adapters = {key: value for key, value in expected.items() if key.startswith("blocks.")}
        method.load_learned_state({**state, **adapters})
        torch.testing.assert_close(method.features(inputs["images"]), expected["cls_feature"], atol=5e-5, rtol=0)
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        check_step(method, inputs["images"], inputs["labels"], expected)


@pytest.mark.parametrize("parallel", [False, True])
def test_both_forms_by_hand(parallel, vit, inputs):
    """Every block written out: h + mlp(n) + what the adapter adds, n = norm2(h)."""
    method = randomised(vpt.build("adapter", vit, CLASSES, parallel=parallel, scale=0.7))
    tokens = vit.enter(vit.embed(inputs["images"]))
    for block, adapter in zip(vit.blocks, method.blocks, strict=True):
        down, up = adapter.adapter_downsample, adapter.adapter_upsample
        middle = tokens + block.attn(block.norm1(tokens))
        normed = block.norm2(middle)
        output = block.mlp(normed)
        added = 0.7 * up(down(normed).relu()) if parallel else up(torch.nn.functional.gelu(down(output)))
        tokens = middle + output + added
    torch.testing.assert_close(method.features(inputs["images"]), vit.pool(tokens), atol=2e-5, rtol=0)


def test_a_layer_scale_scales_the_adapter_too():
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, init_values=0.5, num_classes=0
    )
    method = randomised(vpt.build("adapter", vit, CLASSES, reduction=4, parallel=True, scale=1.0))
    block, adapter, images = vit.blocks[0], method.blocks[0], torch.randn(2, 3, 32, 32)
    tokens = method.backbone.embed(images)
    tokens = tokens + block.ls1(block.attn(block.norm1(tokens)))
    normed = block.norm2(tokens)
    adapted = adapter["adapter_upsample"](adapter["adapter_downsample"](normed).relu())
    tokens = tokens + block.ls2(block.mlp(normed) + adapted)
    torch.testing.assert_close(method.features(images), method.backbone.pool(tokens))


def swin():
    return load_vit(
        SwinTransformer(
            img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=0
        )
    )


def embedded():
    return load_vit("embedded")


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("make", [swin, embedded])
def test_other_backbones_start_unchanged_learn_everywhere_and_stay_as_they_were(make, parallel):
    tower, images = make(), torch.randn(2, 3, 32, 32)
    before = tower(images)
    method = vpt.build("adapter", tower, ["a", "b"], parallel=parallel)
    torch.testing.assert_close(method.features(images), before)
    randomised(method).loss(images, torch.tensor([0, 1])).backward()
    assert all(parameter.grad.any() for parameter in method.blocks.parameters())
    assert torch.equal(tower(images), before)
    assert not any(module._forward_hooks for module in tower.modules())


def test_hooks_go_even_when_the_forward_pass_fails(vit):
    method = vpt.build("adapter", vit, CLASSES)
    with pytest.raises((AssertionError, InputError)):
        method(torch.randn(1, 3, 60, 60))
    assert not any(module._forward_hooks for module in vit.modules())


def test_the_published_start_can_only_move_one_bias(vit, inputs, golden_cases):
    method = vpt.build("adapter", vit, CLASSES, init="published")
    assert not any(parameter.any() for parameter in method.blocks.parameters())
    method.loss(inputs["images"], inputs["labels"]).backward()
    moving = {name for name, p in method.blocks.named_parameters() if p.grad.any()}
    assert moving == {f"{block}.adapter_upsample.bias" for block in range(4)}


def test_bad_options_are_refused(vit):
    with pytest.raises(InputError, match="unknown init of an adapter 'identty'; did you mean 'identity'"):
        vpt.build("adapter", vit, CLASSES, init="identty")
    with pytest.raises(InputError, match="reduction is 65"):
        vpt.build("adapter", vit, CLASSES, reduction=65)
    with pytest.raises(InputError, match="'resnet18' has no blocks with an MLP"):
        vpt.build("adapter", load_vit("resnet18", pretrained="none"), CLASSES)
