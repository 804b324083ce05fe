"""Learned keys and values: equal to an attention computed by hand, on every tower whose blocks are known."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.prefix import prefixed_features, prefixed_tokens
from promptvision.errors import InputError


def tower_of(**options):
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    return load_vit(VisionTransformer(**sizes, **options).double())


def by_hand(block, tokens, keys, values):
    """One image, one head after the other, softmax written out."""
    attention, width = block.attn, tokens.shape[-1]
    query, key, value = attention.qkv(block.norm1(tokens)).split(width, dim=-1)
    key, value = torch.cat([keys, key]), torch.cat([values, value])
    size = width // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * size, (head + 1) * size)
        heads.append((query[:, part] @ key[:, part].T / size**0.5).softmax(-1) @ value[:, part])
    tokens = tokens + attention.proj(torch.cat(heads, dim=-1))
    return tokens + block.mlp(block.norm2(tokens))


@pytest.mark.parametrize("per_image", [False, True])
def test_prefixes_are_put_before_keys_and_values(per_image):
    tower = tower_of()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    shape = (2, 2, 5, 32) if per_image else (2, 5, 32)
    first, last = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    tokens = tower.enter(tower.embed(images))
    found = prefixed_tokens(tower, tokens, [first.unbind(0), None, last.unbind(0)])
    for image in range(2):
        own = [[part[image] if per_image else part for part in prefix] for prefix in (first, last)]
        expected = by_hand(tower.blocks[0], tokens[image], *own[0])
        expected = tower.blocks[1](expected[None])[0]
        expected = by_hand(tower.blocks[2], expected, *own[1])
        torch.testing.assert_close(found[image], expected, atol=1e-12, rtol=0)


def test_without_prefixes_the_tower_is_untouched():
    tower = tower_of(reg_tokens=2)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(prefixed_features(tower, images, [None] * 3), tower(images))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_features_are_those_of_all_tokens(pool):
    tower = tower_of(global_pool=pool)
    images, prefix = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 4, 32, dtype=torch.float64)
    whole = prefixed_tokens(tower, tower.enter(tower.embed(images)), [prefix.unbind(0)] * 3)
    found = prefixed_features(tower, images, [prefix.unbind(0)] * 3)
    torch.testing.assert_close(found, tower.pool(whole), atol=1e-12, rtol=0)


def test_learned_on_the_image_tower_of_a_clip():
    tower = load_clip("embedded").image
    images = torch.randn(2, 3, 32, 32)
    prefix = torch.randn(2, 3, tower.width, requires_grad=True)
    features = prefixed_features(tower, images, [prefix.unbind(0)])
    F.normalize(features, dim=-1).sum().backward()
    assert prefix.grad.abs().min(dim=-1).values.sum() > 0


def test_refusals():
    tower = tower_of(qk_norm=True)
    images, prefix = torch.randn(1, 3, 32, 32, dtype=torch.float64), (torch.zeros(2, 32), torch.zeros(2, 32))
    with pytest.raises(InputError, match=r"block 1 of backbone .* is not known: prefixes"):
        prefixed_features(tower, images, [None, prefix])
    with pytest.raises(InputError, match="4 layers of prefixes; backbone .* has 3 blocks"):
        prefixed_features(tower, images, [prefix] * 4)
