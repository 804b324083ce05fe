"""The fast text encoder equals the plain way: random shapes, every precision, after every change of weights."""

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import coop
from coop.parts.context import context_prompts
from promptvision.backbones.fast_text import known_views
from promptvision.backbones.text import OpenClipText
from promptvision.backbones.towers import CLIP
from promptvision.errors import InputError

WORDS = [
    "cat",
    "golden retriever",
    "DC-9-30",
    "hen-of-the-woods",
    "Washington D.C.",
    "a",
    "McDonnell Douglas",
    "forget-me-not",
]


def tiny_clip(quick_gelu=True, layer_scale=None, layers=2, seed=0, **text):
    """A random open_clip model of width 32; large weights, so that every token matters."""
    torch.manual_seed(seed)
    vision = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
    text = dict(width=32, heads=2, layers=layers, ls_init_value=layer_scale, **text)
    model = open_clip.CLIP(16, vision, text, quick_gelu=quick_gelu).eval().requires_grad_(False)
    for parameter in model.transformer.parameters():
        parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    model.token_embedding.weight.normal_()
    return model


def clip_of(model):
    from promptvision.backbones.open_clip_image import OpenClipImage

    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "tiny")
    return CLIP("tiny", OpenClipImage(model.visual, "tiny"), text, model.logit_scale)


@pytest.fixture(scope="module")
def double():
    return clip_of(tiny_clip().double())


def both(computed, tower, classes, ctx, tolerance, chunk=0, **options):
    """Check that features and gradient of the fast and of the plain way agree."""
    encoder = context_prompts(tower, classes, ctx.shape[-2], **options)
    results = []
    for own in (dict(way="plain"), dict(way="fast", chunk=chunk)):
        leaf = ctx.clone().requires_grad_()
        features = encoder(computed(tower, **own), leaf)
        weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
        results.append((features.detach(), torch.autograd.grad((features * weights).sum(), leaf)[0]))
    for ours, theirs in zip(*results, strict=True):
        scale = ours.abs().max().item()
        torch.testing.assert_close(theirs, ours, atol=tolerance * scale, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=9),
    n_ctx=st.integers(1, 9),
    position=st.sampled_from(["end", "middle", "front"]),
    csc=st.booleans(),
    chunk=st.integers(0, 5),
    rows=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 9),
)
def test_random_shapes_in_double_precision(computed, double, classes, n_ctx, position, csc, chunk, rows, seed):
    shape = (*([rows] if rows else []), *([len(classes)] if csc else []), n_ctx, 32)
    ctx = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    both(computed, double.text, classes, ctx, 1e-12, position=position, class_specific=csc, chunk=chunk)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("layer_scale", [None, 0.5])
@pytest.mark.parametrize("layers", [1, 3])
def test_kinds_of_blocks(computed, quick_gelu, layer_scale, layers):
    clip = clip_of(tiny_clip(quick_gelu, layer_scale, layers))
    for position in ("end", "middle", "front"):
        both(computed, clip.text, WORDS, torch.randn(4, 32), 1e-5, position=position)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_low_precision(computed, dtype, tolerance):
    clip = clip_of(tiny_clip())
    ctx = torch.randn(4, 32)
    exact = context_prompts(clip.text, WORDS, 4)(computed(clip.text, way="plain"), ctx)
    half = clip.to(dtype)
    for way in ("plain", "fast"):
        features = context_prompts(half.text, WORDS, 4)(computed(half.text, way=way), ctx)
        assert features.dtype == dtype
        torch.testing.assert_close(features.float(), exact, atol=tolerance * exact.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_autocast_and_back(computed, dtype, tolerance):
    clip = clip_of(tiny_clip())
    encoder, ctx, text = context_prompts(clip.text, WORDS, 4), torch.randn(4, 32), computed(clip.text, way="fast")
    exact = encoder(text, ctx)
    with torch.autocast("cpu", dtype):
        rough = encoder(text, ctx).float()
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=tolerance * exact.abs().max().item(), rtol=0)
    assert torch.equal(encoder(text, ctx), exact)


def test_what_is_kept_between_steps_follows_the_weights(computed):
    clip = clip_of(tiny_clip())
    ctx = torch.randn(4, 32)
    for position in ("end", "front"):
        encoder = context_prompts(clip.text, WORDS, 4, position=position)
        plain, fast = (computed(clip.text, way=way) for way in ("plain", "fast"))
        for change in (lambda: None, lambda: clip.text.blocks[0].attn.in_proj_weight.mul_(1.1), lambda: clip.double()):
            change()
            encoder.to(clip.logit_scale.dtype)
            torch.testing.assert_close(encoder(fast, ctx), encoder(plain, ctx), atol=1e-4, rtol=1e-4)
        clip.float()


def test_gradient_checkpointing_of_the_tower_changes_nothing(computed, double):
    ctx = torch.randn(4, 32, dtype=torch.float64)
    double.text.transformer.grad_checkpointing = True
    both(computed, double.text, WORDS, ctx, 1e-12)
    double.text.transformer.grad_checkpointing = False


class Wrapped(nn.Module):
    """As LoRA and adapters wrap: the block's own weights are not all that counts."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x) * 1.5


def thaw(model):
    model.transformer.resblocks[0].ln_1.weight.requires_grad_()


def hook(model):
    model.transformer.resblocks[1].mlp.register_forward_hook(lambda module, args, output: output * 2)


def wrap(model):
    model.transformer.resblocks[1].mlp.c_fc = Wrapped(model.transformer.resblocks[1].mlp.c_fc)


def parametrize(model):
    nn.utils.parametrize.register_parametrization(model.transformer.resblocks[0].mlp.c_fc, "weight", Double())


class Double(nn.Module):
    def forward(self, weight):
        return weight * 2


@pytest.mark.parametrize("change", [thaw, hook, wrap, parametrize])
def test_towers_with_foreign_parts_take_the_plain_way(computed, change):
    model = tiny_clip()
    clip, ctx = clip_of(model), torch.randn(4, 32)
    before, encoder = known_views(clip.text), context_prompts(clip.text, WORDS, 4)
    change(model)
    assert before is not None and known_views(clip.text) is None
    assert torch.equal(encoder(clip.text, ctx), encoder(computed(clip.text, way="plain"), ctx))
    with pytest.raises(InputError, match="parts that the fast way does not know"):
        encoder(computed(clip.text, way="fast"), ctx)


def test_coop_on_a_text_tower_without_causal_mask(computed):
    text = dict(
        width=32, heads=2, layers=2, context_length=16, no_causal_mask=True, pool_type="last", hf_tokenizer_name=None
    )
    vision = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
    model = open_clip.CustomTextCLIP(16, vision, text).eval()
    clip = clip_of(model)
    method = coop.build("coop", clip, ["cat", "dog"], n_ctx=4)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert method.ctx.grad.abs().sum() > 0
    with pytest.raises(InputError, match="no causal mask"):
        coop.build("coop", computed(clip, way="fast"), ["cat", "dog"], n_ctx=4)(torch.randn(1, 3, 32, 32))


def test_chunks_keep_less_for_backward(computed, double):
    """The memory that autograd keeps of a forward pass no longer grows with the classes."""
    ctx = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    kept = {}
    for chunk in (0, 8):
        encoder, text = context_prompts(double.text, WORDS * 8, 4), computed(double.text, chunk=chunk)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            encoder(text, ctx)
        kept[chunk] = sum(sizes)
    assert kept[8] < kept[0] / 2
