"""The fast image encoder equals the plain way: random shapes, every kind of tower it knows, gradients included."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import QuickGELU
from open_clip.transformer import VisionTransformer as ClipTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.backbones.fast_image import prompted_features
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.errors import InputError
from vpt.parts.thaw import biases as biases_of

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


CLIPS = {
    "clip": {},
    "clip, average pool": dict(pool_type="avg"),
    "clip, layer scale": dict(ls_init_value=0.5),
    "clip, QuickGELU": dict(act_layer=QuickGELU),
}


def tower_of(kind, depth):
    torch.manual_seed(0)
    if kind in CLIPS:
        sizes = dict(image_size=32, patch_size=16, width=32, layers=depth, heads=2, mlp_ratio=2, output_dim=8)
        model = ClipTransformer(**sizes, **CLIPS[kind])
    else:
        model = VisionTransformer(depth=depth, **SIZES, **KINDS[kind])
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return load_vit(OpenClipImage(model.double()) if kind in CLIPS else model.double())


@st.composite
def schedules(draw):
    """Depth of the tower, the block of the first prompts, how many blocks have their own."""
    depth = draw(st.integers(1, 4))
    start = draw(st.integers(0, depth - 1))
    return depth, start, draw(st.integers(1, depth - start))


def both_ways(computed, tower, images, layers, **options):
    """Features and gradients, of the prompts and of whatever else learns, of the plain way and of the fast one."""
    learned = [layers, *(p for p in tower.parameters() if p.requires_grad)]
    found = []
    for way in ("plain", "fast"):
        features = prompted_features(computed(tower, way=way), images, layers[0], list(layers[1:]), **options)
        weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
        gradients = torch.autograd.grad((features * weights).sum(), learned, allow_unused=True)
        found.append([features.detach(), *(torch.zeros(1) if grad is None else grad for grad in gradients)])
    return zip(*found, strict=True)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS | CLIPS)),
    schedule=schedules(),
    keep=st.booleans(),
    count=st.integers(1, 7),
    batch=st.integers(1, 3),
    per_image=st.booleans(),
    biases=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
def test_random_shapes_and_schedules(computed, kind, schedule, keep, count, batch, per_image, biases, single, seed):
    depth, start, prompted = schedule
    dtype, tolerance = (torch.float32, 1e-5) if single else (torch.float64, 1e-12)
    tower = tower_of(kind, depth).to(dtype)
    if biases:
        for bias in biases_of(tower):
            bias.requires_grad_(True)
    torch.manual_seed(seed)
    images = torch.randn(batch, 3, 32, 32, dtype=dtype)
    shape = (prompted, *([batch] if per_image else []), count, 32)
    layers = torch.randn(shape, dtype=dtype, requires_grad=True)
    for plain, fast in both_ways(computed, tower, images, layers, start=start, keep=keep):
        torch.testing.assert_close(fast, plain, atol=tolerance * max(1, plain.abs().max().item()), rtol=0)


@pytest.mark.parametrize("way", ["plain", "fast"])
def test_nothing_is_kept_for_backward_below_the_first_prompt(computed, way):
    """The later the first prompts, the fewer bytes autograd keeps; what enters the blocks below needs no gradient."""
    images, kept = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    for start in range(4):
        prompts = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
        tower = computed(tower_of("plain", 4), way=way)
        kept.append(kept_bytes(tower, images, prompts, [prompts] * (3 - start), start))
    assert kept == sorted(kept, reverse=True) and kept[3] < 0.4 * kept[0]


def kept_bytes(tower, images, prompts, others, start):
    sizes, given = {}, {tensor.data_ptr() for tensor in (*tower.parameters(), images, prompts)}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = []
    handles = [b.register_forward_pre_hook(lambda _, a: inputs.append(a[0])) for b in list(tower.blocks)[:start]]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = prompted_features(tower, images, prompts, others, start=start)
    assert features.requires_grad and len(inputs) == start and not any(tokens.requires_grad for tokens in inputs)
    for handle in handles:
        handle.remove()
    return sum(sizes.values())


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_image_tower_of_a_clip(computed, deep, projected):
    tower = load_clip("embedded").image
    tower.projected = projected
    tower.feature_dim = 128
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    found = []
    for way in ("plain", "fast"):
        torch.manual_seed(1)
        method = vpt.build("prompt", computed(tower, way=way), ["a", "b"], num_tokens=5, deep=deep)
        loss = method.loss(images, labels)
        loss.backward()
        found.append((loss.detach(), method.prompt_embeddings.grad))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_a_distilled_vit_pools_two_tokens(computed):
    tower = load_vit(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=0))
    assert tower.prefix == 2 and not tower.pools_first
    images, prompts = torch.randn(2, 3, 32, 32), torch.randn(3, 192)
    plain, fast = (prompted_features(computed(tower, way=way), images, prompts) for way in ("plain", "fast"))
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


def test_unknown_blocks_take_the_plain_way_or_are_refused(computed):
    tower = tower_of("plain", 2)
    tower.blocks[1].attn.register_forward_hook(lambda module, args, output: output * 2)
    assert tower.views() is None
    images, prompts = torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.randn(2, 32, dtype=torch.float64)
    plain = prompted_features(computed(tower, way="plain"), images, prompts)
    assert torch.equal(prompted_features(tower, images, prompts), plain)
    with pytest.raises(InputError, match="blocks that the fast way does not know"):
        prompted_features(computed(tower, way="fast"), images, prompts)


def test_settings_of_the_computation_are_checked():
    with pytest.raises(InputError, match="unknown way to encode .* 'fats'; did you mean 'fast'"):
        Compute(way="fats")
    with pytest.raises(InputError, match="COMPUTE.CHUNK is -1"):
        Compute(chunk=-1)
    with pytest.raises(InputError, match="COMPUTE.IMAGES_AT_ONCE is -2"):
        Compute(images_at_once=-2)


def test_the_loaders_set_both_towers_and_keep_what_is_set():
    chunks = Compute("plain", 3)
    clip = load_clip("embedded", compute=chunks)
    assert clip.compute is clip.text.compute is clip.image.compute is chunks
    tower = load_vit(tower_of("plain", 1), compute=chunks)
    assert load_vit(tower).compute is chunks and load_vit(tower, image_size=64).compute == chunks
    assert load_clip("embedded").compute == load_vit(tower_of("plain", 1)).compute == Compute()


def test_blocks_in_training_mode_with_dropout_are_not_known():
    tower = load_vit(VisionTransformer(depth=2, **SIZES, drop_path_rate=0.5))
    assert tower.views() is not None
    assert tower.train().views() is None
    tower.eval().pin()
    assert tower.views() is not None
    assert tower.train().views() is None


def test_autocast(computed):
    tower = load_vit(VisionTransformer(depth=2, **SIZES))
    images, prompts = torch.randn(2, 3, 32, 32), torch.randn(5, 32)
    exact = prompted_features(tower, images, prompts, [prompts])
    with torch.autocast("cpu", torch.bfloat16):
        for way in ("plain", "fast"):
            rough = prompted_features(computed(tower, way=way), images, prompts, [prompts])
            torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(("deep", "count", "saved"), [(True, 10, 1.13), (True, 50, 1.34), (False, 50, 1.07)])
def test_floating_point_operations_of_a_step(computed, deep, count, saved):
    """Plain over fast, forward and backward, on DeiT-tiny: the shares of the parts are much as in ViT-B/16."""
    torch.manual_seed(0)
    tower = load_vit(timm.create_model("deit_tiny_patch16_224", num_classes=0))
    images, prompts = torch.randn(3, 3, 224, 224), torch.randn(count, 192, requires_grad=True)
    counts = []
    for way in ("plain", "fast"):
        own = computed(tower, way=way)
        with FlopCounterMode(display=False) as counter:
            prompted_features(own, images, prompts, [prompts] * 11 if deep else []).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] / counts[1] >= saved
