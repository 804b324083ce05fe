"""Deep language prompts: the plain way does what its rule says, the fast way equals it for all shapes and depths."""

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coop.parts.context import context_prompts
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import CLIP, TextTower
from promptvision.errors import InputError

WORDS = ["cat", "golden retriever", "DC-9-30", "hen-of-the-woods", "Washington D.C.", "a", "forget-me-not"]
LAYERS = 5


def random_clip(no_mask=False):
    """A random open_clip model with a text tower of five blocks of width 32, large enough that every token matters."""
    torch.manual_seed(0)
    vision = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
    text = dict(width=32, heads=2, layers=LAYERS)
    if no_mask:
        text |= dict(context_length=16, no_causal_mask=True, pool_type="last", hf_tokenizer_name=None)
        model = open_clip.CustomTextCLIP(16, vision, text)
    else:
        model = open_clip.CLIP(16, vision, text, quick_gelu=True)
    model.eval().requires_grad_(False)
    tower = model.text if no_mask else model
    for parameter in tower.transformer.parameters():
        parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    tower.token_embedding.weight.normal_()
    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "tiny")
    return CLIP("tiny", OpenClipImage(model.visual, "tiny"), text, model.logit_scale)


@pytest.fixture(scope="module")
def double():
    return random_clip().double()


def results(encoder, tower, layers):
    """Features, and the gradients that a weighted sum of them gives to every layer of contexts."""
    leaves = [layer.clone().requires_grad_() for layer in layers]
    features = encoder(tower, leaves[0], leaves[1:])
    weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
    gradients = torch.autograd.grad((features * weights).sum(), leaves, allow_unused=True)
    return [features.detach(), *gradients]


def both_ways(computed, tower, classes, layers, tolerance, chunk=0, **options):
    n_ctx = layers[0].shape[-2]
    encoder = context_prompts(tower, classes, n_ctx, **options)
    plain, fast = (results(encoder, computed(tower, way=way, chunk=chunk), layers) for way in ("plain", "fast"))
    for ours, theirs in zip(plain, fast, strict=True):
        torch.testing.assert_close(theirs, ours, atol=tolerance * ours.abs().max().item(), rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8),
    n_ctx=st.integers(1, 7),
    depth=st.integers(1, LAYERS),
    words=st.sampled_from(["", "a photo of a"]),
    position=st.sampled_from(["end", "middle", "front"]),
    csc=st.booleans(),
    chunk=st.integers(0, 5),
    rows=st.sampled_from([None, 1, 3]),
)
def test_random_shapes_and_depths_in_double_precision(
    double, computed, classes, n_ctx, depth, words, position, csc, chunk, rows
):
    """With words, those beyond the contexts stand fixed behind them: they are part of the trunk too."""
    n_ctx = min(n_ctx, 4) if words else n_ctx
    shape = (*([rows] if rows else []), *([len(classes)] if csc else []), n_ctx, 32)
    generator = torch.Generator().manual_seed(n_ctx)
    layers = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(depth)]
    options = dict(position=position, class_specific=csc, prefix=words)
    both_ways(computed, double.text, classes, layers, 1e-12, chunk=chunk, **options)


@pytest.mark.parametrize("depth", [2, LAYERS])
@pytest.mark.parametrize("n_ctx", [2, 4])
def test_single_precision(depth, n_ctx, computed):
    layers = [torch.randn(n_ctx, 32) for _ in range(depth)]
    both_ways(computed, random_clip().text, WORDS, layers, 1e-5, prefix="a photo of a")


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_the_rule_block_by_block(way, double, computed):
    """Positions 1 to n_ctx of every prompt are exchanged at the entrance of blocks 1 to depth - 1 (all 77 tokens)."""
    tower, layers = double.text, [torch.randn(3, 32, dtype=torch.float64) for _ in range(3)]
    ids = tower.tokenize([f"a photo of a {word}." for word in WORDS])
    tokens = tower.embed(ids)
    tokens[:, 1:4] = layers[0]
    tokens = tokens + tower.positional_embedding
    for index, block in enumerate(tower.blocks):
        if index in (1, 2):
            tokens[:, 1:4] = layers[index]
        tokens = block(tokens, attn_mask=tower.mask)
    expected = tower.project(tokens[torch.arange(len(WORDS)), tower.eot(ids)])
    encoder = context_prompts(tower, WORDS, 3, prefix="a photo of a")
    torch.testing.assert_close(
        encoder(computed(tower, way=way), layers[0], layers[1:]), expected, atol=1e-12, rtol=1e-12
    )


def test_a_layer_that_is_replaced_at_once_still_counts(double):
    """Contexts give keys and values in their own block: every layer gets a gradient."""
    encoder = context_prompts(double.text, WORDS, 4)
    layers = [torch.randn(4, 32, dtype=torch.float64) for _ in range(LAYERS)]
    assert all(gradient.abs().max() > 0 for gradient in results(encoder, double.text, layers))
    assert torch.equal(encoder(double.text, layers[0]), encoder(double.text, layers[0], []))


def test_half_precision_and_autocast_follow(computed):
    clip, layers = random_clip(), [0.1 * torch.randn(4, 32) for _ in range(3)]
    encoder = context_prompts(clip.text, WORDS, 4)
    exact = encoder(computed(clip.text, way="plain"), layers[0], layers[1:])
    largest = exact.abs().max().item()
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(computed(clip.text, way="fast"), layers[0], layers[1:])
    torch.testing.assert_close(rough.float(), exact, atol=0.1 * largest, rtol=0)
    clip.half()
    for way in ("plain", "fast"):
        text = computed(clip.text, way=way)
        features = context_prompts(text, WORDS, 4)(text, layers[0], layers[1:])
        assert features.dtype == torch.float16
        torch.testing.assert_close(features.float(), exact, atol=0.02 * largest, rtol=0)


def test_towers_without_causal_mask_take_the_plain_way():
    clip, layers = random_clip(no_mask=True), [torch.randn(4, 32) for _ in range(2)]
    encoder = context_prompts(clip.text, ["cat", "dog"], 4)
    first, *gradients = results(encoder, clip.text, layers)
    assert first.shape == (2, 16) and all(gradient.abs().max() > 0 for gradient in gradients)
    assert not torch.allclose(encoder(clip.text, layers[0]), first)


def test_more_layers_than_blocks_are_refused(double):
    encoder, ctx = context_prompts(double.text, WORDS, 4), torch.randn(4, 32, dtype=torch.float64)
    with pytest.raises(InputError, match="6 layers of prompts; this text tower shows 5 blocks"):
        encoder(double.text, ctx, [ctx] * 5)
    with pytest.raises(InputError, match="2 layers of prompts; this text tower shows 0 blocks"):
        encoder(TextTower(), ctx, [ctx])
