"""LoRA equals merged weights, in value and gradient, and starts as the backbone."""

import pytest
import torch
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from torch.func import functional_call

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.errors import InputError

ALL = ("q", "k", "v", "o", "fc1", "fc2")


def swin():
    return load_vit(
        SwinTransformer(
            img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=0
        )
    )


def eva(**options):
    sizes = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    return load_vit(Eva(**sizes, use_rot_pos_emb=True, **options))


def embedded():
    return load_vit("embedded")


def clip():
    return load_clip("embedded").image


def vit_of_timm():
    return load_vit("vit_tiny_patch16_224", pretrained="none", image_size=32)


def randomised(method):
    torch.manual_seed(1)
    for parameter in method.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return method


def weights_of(method):
    """The backbone's weights plus alpha / rank B A, by name; the changes stay differentiable."""
    scale = method.options["alpha"] / method.options["rank"]
    deltas = [{name: scale * low.lora_B @ low.lora_A for name, low in block.items()} for block in method.blocks]
    rows = {"qkv": "qkv", "in_proj_weight": "qkv", "q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}
    rows |= {"proj": ("o",), "fc1": ("fc1",), "c_fc": ("fc1",), "fc2": ("fc2",), "c_proj": ("fc2",)}
    found, block, last = {}, -1, None
    for name, weight in method.backbone.named_parameters():
        path = name.removesuffix(".weight").split(".")
        if not {"attn", "mlp"} & set(path) or name.endswith("bias") or path[-1] not in rows:
            continue
        here = name.partition(".attn" if "attn" in path else ".mlp")[0]
        block, last = (block, last) if here == last else (block + 1, here)
        parts = [deltas[block].get(part) for part in rows[path[-1]]]
        parts = [torch.zeros(len(weight) // len(parts), weight.shape[1]) if part is None else part for part in parts]
        found[name] = weight + torch.cat(parts)
    return found


@pytest.mark.parametrize("targets", [("q", "v"), ALL, ("k", "fc2")])
@pytest.mark.parametrize("make", [vit_of_timm, embedded, clip, swin])
def test_low_rank_changes_equal_merged_weights(make, targets):
    tower, images = make(), torch.randn(2, 3, 32, 32)
    method = randomised(vpt.build("lora", tower, ["a", "b"], rank=3, alpha=6.0, targets=targets))
    features = method.features(images)
    plain = functional_call(tower, weights_of(method), (images,))
    assert not torch.allclose(plain, tower(images), atol=1e-3)
    torch.testing.assert_close(features, plain, atol=1e-4, rtol=1e-4)
    parameters = list(method.blocks.parameters())
    for found, expected in zip(
        *(torch.autograd.grad(f.square().sum(), parameters) for f in (features, plain)), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_separate_projections_are_found():
    tower, images = eva(qkv_fused=False, swiglu_mlp=False), torch.randn(2, 3, 32, 32)
    method = randomised(vpt.build("lora", tower, ["a", "b"], targets=ALL))
    torch.testing.assert_close(method.features(images), functional_call(tower, weights_of(method), (images,)))


@pytest.mark.parametrize("make", [vit_of_timm, embedded, swin])
def test_it_starts_as_the_backbone_and_leaves_it_as_it_was(make):
    tower, images = make(), torch.randn(2, 3, 32, 32)
    before = tower(images)
    method = vpt.build("lora", tower, ["a", "b"], targets=ALL)
    torch.testing.assert_close(method.features(images), before, atol=1e-5, rtol=1e-5)
    method.loss(images, torch.tensor([0, 1])).backward()
    assert all(low.lora_B.grad.any() for block in method.blocks for low in block.values())
    assert torch.equal(tower(images), before)
    assert not any(module._forward_hooks for module in tower.modules())


@pytest.mark.parametrize("make", [vit_of_timm, embedded])
def test_dropout_is_drawn_in_training_only(make):
    method, images = randomised(vpt.build("lora", make(), ["a", "b"], dropout=0.5)), torch.randn(2, 3, 32, 32)
    assert torch.equal(method.eval()(images), method(images))
    assert not torch.equal(method.train()(images), method(images))


def test_learned_tensors_and_their_shapes(vit):
    state = vpt.build("lora", vit, ["a", "b"], rank=2, targets=("q", "fc1")).learned_state()
    names = {f"blocks.{i}.{t}.lora_{m}" for i in range(4) for t in ("q", "fc1") for m in "AB"}
    assert state.keys() == names | {"head.last_layer.weight", "head.last_layer.bias"}
    assert state["blocks.0.fc1.lora_A"].shape == (2, 64) and state["blocks.0.fc1.lora_B"].shape == (128, 2)


def test_what_cannot_be_changed_is_refused(vit):
    with pytest.raises(InputError, match="unknown target of LoRA 'qq'"):
        vpt.build("lora", vit, ["a", "b"], targets=("qq",))
    with pytest.raises(InputError, match="targets is empty"):
        vpt.build("lora", vit, ["a", "b"], targets=())
    with pytest.raises(InputError, match="rank is 0"):
        vpt.build("lora", vit, ["a", "b"], rank=0)
    with pytest.raises(InputError, match="dropout is 1"):
        vpt.build("lora", vit, ["a", "b"], dropout=1.0)
    with pytest.raises(InputError, match="'resnet18' has no blocks"):
        vpt.build("lora", load_vit("resnet18", pretrained="none"), ["a", "b"])


def test_a_weight_that_is_read_behind_its_layer_is_refused_not_ignored():
    """EVA's fused qkv with a bias of its own: the layer is never called, so nothing could be added to its output."""
    method = vpt.build("lora", eva(qkv_fused=True, swiglu_mlp=False), ["a", "b"])
    with pytest.raises(InputError, match=r"reads the weight of blocks\.0\.attn\.qkv without calling it"):
        method(torch.randn(1, 3, 32, 32))
