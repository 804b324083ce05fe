"""The fast image encoder equals the plain way: random shapes, every kind of tower it knows, gradients included."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.fast_image import known_blocks, prompted_features
from promptvision.errors import InputError

SIZES = dict(img_size=32, patch_size=16, embed_dim=32, num_heads=2, num_classes=0)
KINDS = {
    "plain": {},
    "average pool": dict(global_pool="avg"),
    "registers": dict(reg_tokens=3),
    "layer scale": dict(init_values=0.5),
    "norm before": dict(pre_norm=True),
    "no qkv bias": dict(qkv_bias=False),
    "attention pool": dict(global_pool="map"),
}


def tower_of(kind, depth):
    torch.manual_seed(0)
    model = VisionTransformer(depth=depth, **SIZES, **KINDS[kind])
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return load_vit(model.double())


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    depth=st.integers(1, 4),
    deep=st.integers(0, 3),
    count=st.integers(1, 7),
    batch=st.integers(1, 3),
    per_picture=st.booleans(),
    seed=st.integers(0, 9),
)
def test_random_shapes_in_double_precision(kind, depth, deep, count, batch, per_picture, seed):
    tower = tower_of(kind, depth)
    torch.manual_seed(seed)
    images = torch.randn(batch, 3, 32, 32, dtype=torch.float64)
    shape = (1 + min(deep, depth - 1), *([batch] if per_picture else []), count, 32)
    prompts = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found = []
    for way in ("plain", "fast"):
        features = prompted_features(tower, images, prompts[0], list(prompts[1:]), way)
        weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
        found.append((features.detach(), torch.autograd.grad((features * weights).sum(), prompts)[0]))
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-12 * max(1, plain.abs().max().item()), rtol=0)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_image_tower_of_a_clip(deep, projected):
    tower = load_clip("embedded").image
    tower.projected = projected
    tower.feature_dim = 128
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    found = []
    for way in ("plain", "fast"):
        torch.manual_seed(1)
        method = vpt.build("prompt", tower, ["a", "b"], num_tokens=5, deep=deep, way=way)
        loss = method.loss(images, labels)
        loss.backward()
        found.append((loss.detach(), method.prompt_embeddings.grad))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_a_distilled_vit_pools_two_tokens():
    tower = load_vit(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=0))
    assert tower.prefix == 2 and not tower.pools_first
    images, prompts = torch.randn(2, 3, 32, 32), torch.randn(3, 192)
    plain, fast = (prompted_features(tower, images, prompts, [], way) for way in ("plain", "fast"))
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


def test_unknown_blocks_take_the_plain_way_or_are_refused():
    tower = tower_of("plain", 2)
    tower.blocks[1].attn.register_forward_hook(lambda module, args, output: output * 2)
    assert known_blocks(tower) is None
    images, prompts = torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.randn(2, 32, dtype=torch.float64)
    plain = prompted_features(tower, images, prompts, way="plain")
    assert torch.equal(prompted_features(tower, images, prompts), plain)
    with pytest.raises(InputError, match="blocks that the fast way does not know"):
        prompted_features(tower, images, prompts, way="fast")
    with pytest.raises(InputError, match="did you mean 'plain'"):
        prompted_features(tower, images, prompts, way="plan")


def test_blocks_in_training_mode_with_dropout_are_not_known():
    tower = load_vit(VisionTransformer(depth=2, **SIZES, drop_path_rate=0.5))
    assert known_blocks(tower) is not None
    assert known_blocks(tower.train()) is None


def test_autocast():
    tower = load_vit(VisionTransformer(depth=2, **SIZES))
    images, prompts = torch.randn(2, 3, 32, 32), torch.randn(5, 32)
    exact = prompted_features(tower, images, prompts, [prompts])
    with torch.autocast("cpu", torch.bfloat16):
        for way in ("plain", "fast"):
            rough = prompted_features(tower, images, prompts, [prompts], way)
            torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
