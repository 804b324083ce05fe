"""Prompts in Swin's windows: against dense attention over all tokens, image by image, and timm's own forward."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.swin import prompted_swin_features, stage_sizes
from promptvision.engine.optim import build_optimizer
from promptvision.errors import InputError

COUNT = 3
SIZES = dict(patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=0)
KINDS = {
    "windows that fit": dict(img_size=32, window_size=4),
    "padded windows": dict(img_size=40, window_size=4),
    "odd grid to merge": dict(img_size=36, window_size=3),
    "one window": dict(img_size=32, window_size=8),
    "masks made as needed": dict(img_size=32, window_size=4, strict_img_size=False),
}


def tower_of(kind="windows that fit"):
    torch.manual_seed(0)
    model = SwinTransformer(**SIZES, **KINDS[kind])
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return load_vit(model.double())


def random_images(tower, batch=2):
    return torch.randn(batch, 3, tower.image_size, tower.image_size, dtype=torch.float64)


def prompts_of(deep):
    widths = [8, 8, 16, 16] if deep else [8]
    return [torch.randn(COUNT, width, dtype=torch.float64, requires_grad=True) for width in widths]


def relation(block, grid):
    """(heads, N, N) additive bias between patches of a grid padded to whole windows: -inf where windows differ.

    Written from the paper's words: a patch sees the patches of its window, in the shifted grid, that were its
    neighbours before the shift; the bias depends on where they stand to each other. Also (N,), a window per patch.
    """
    (high, wide), size, shift = grid, block.window_size, block.shift_size
    places = list(itertools.product(range(high), range(wide)))
    table, heads = block.attn.relative_position_bias_table, block.attn.num_heads

    def moved(place):
        return tuple((x - s) % whole for x, s, whole in zip(place, shift, grid, strict=True))

    def window(place):
        row, column = moved(place)
        return (row // size[0]) * (wide // size[1]) + column // size[1]

    def wrapped(place):
        return tuple(
            0 if m < whole - w else 1 if m < whole - s else 2
            for m, s, whole, w in zip(moved(place), shift, grid, size, strict=True)
        )

    bias = torch.full((heads, len(places), len(places)), float("-inf"), dtype=torch.float64)
    for i, j in itertools.product(range(len(places)), repeat=2):
        if window(places[i]) == window(places[j]):
            (a, b), (c, d) = moved(places[i]), moved(places[j])
            entry = table[(a - c + size[0] - 1) * (2 * size[1] - 1) + b - d + size[1] - 1]
            kept = not any(shift) or wrapped(places[i]) == wrapped(places[j])
            bias[:, i, j] = entry + (0.0 if kept else -100.0)
    return bias, torch.tensor([window(place) for place in places])


def brute_attention(block, patches, prompts):
    """One image, (H, W, C) and (P, C), normed: one dense attention, in which each window has prompts of its own."""
    height, width, channels = patches.shape
    size, attention = block.window_size, block.attn
    grid = tuple(-(-x // s) * s for x, s in zip((height, width), size, strict=True))
    padded = F.pad(patches, (0, 0, 0, grid[1] - width, 0, grid[0] - height))
    if any(block.shift_size):  # timm pads what it has rolled, so the padding stands elsewhere in the unrolled grid
        rolled = torch.roll(patches, [-s for s in block.shift_size], dims=(0, 1))
        padded = F.pad(rolled, (0, 0, 0, grid[1] - width, 0, grid[0] - height)).roll(block.shift_size, dims=(0, 1))
    bias, window = relation(block, grid)
    windows = int(window.max()) + 1
    tokens = torch.cat([prompts.repeat(windows, 1), padded.reshape(-1, channels)])
    home = torch.cat([torch.arange(windows).repeat_interleave(COUNT), window])
    allowed = torch.where(home[:, None] == home[None], 0.0, float("-inf")).double().repeat(len(bias), 1, 1)
    allowed[:, windows * COUNT :, windows * COUNT :] = bias
    query, key, value = attention.qkv(tokens).view(len(tokens), 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5 + allowed
    out = attention.proj((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
    left = out[windows * COUNT :].view(*grid, channels).roll([-s for s in block.shift_size], dims=(0, 1))
    left = left[:height, :width].roll(block.shift_size, dims=(0, 1))
    return left, out[: windows * COUNT].view(windows, COUNT, channels).mean(0)


def brute(model, image, prompts, pool_prompts):
    """The feature (E,) of one image, written out for one image."""
    patches, index = model.patch_embed(image[None])[0], 0
    entering = prompts[0]
    for stage in model.layers:
        if hasattr(stage.downsample, "reduction"):
            patches = stage.downsample(patches[None])[0]
            entering = stage.downsample.reduction(stage.downsample.norm(torch.cat([entering] * 4, dim=-1)))
        for block in stage.blocks:
            entering = prompts[index] if index < len(prompts) else entering
            change, of_prompts = brute_attention(block, block.norm1(patches), block.norm1(entering))
            patches, entering = patches + change, entering + of_prompts
            patches, entering = (t + block.mlp(block.norm2(t)) for t in (patches, entering))
            index += 1
    tokens = model.norm(torch.cat([entering, patches.flatten(0, 1)]))
    return tokens[0 if pool_prompts else COUNT :].mean(0)


@pytest.mark.parametrize("pool_prompts", [True, False])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_equal_one_dense_attention(kind, deep, pool_prompts):
    tower = tower_of(kind)
    images, prompts = random_images(tower), prompts_of(deep)
    expected = torch.stack([brute(tower.model, image, prompts, pool_prompts) for image in images])
    features = prompted_swin_features(tower, images, prompts[0], prompts[1:], pool_prompts)
    torch.testing.assert_close(features, expected, atol=1e-10, rtol=1e-9)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    for found, wanted in zip(
        *(torch.autograd.grad((f * weights).sum(), prompts) for f in (features, expected)), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-8)
        assert wanted.abs().max() > 1e-6


@pytest.mark.parametrize("deep", [False, True])
def test_images_of_a_batch_do_not_mix(deep):
    tower = tower_of()
    images, prompts = random_images(tower, 5), prompts_of(deep)
    together = prompted_swin_features(tower, images, prompts[0], prompts[1:])
    alone = [prompted_swin_features(tower, image[None], prompts[0], prompts[1:]) for image in images]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_prompts_it_is_timms_forward_pass(kind):
    tower = tower_of(kind)
    images, none = random_images(tower), torch.zeros(0, 8, dtype=torch.float64)
    model = tower.model
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(tower(images), expected)
    torch.testing.assert_close(prompted_swin_features(tower, images, none), expected, atol=1e-12, rtol=1e-10)


def test_dropout_differs_between_images_and_is_off_in_evaluation():
    method = vpt.build("swin_prompt", tower_of().float(), ["a", "b"], num_tokens=COUNT, deep=True, dropout=0.5)
    image = random_images(method.backbone, 1).float().expand(2, -1, -1, -1)
    first, second = method.train()(image)
    assert not torch.allclose(first, second)
    first, second = method.eval()(image)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("deep", [False, True])
def test_names_and_shapes_of_the_official_checkpoints(deep):
    tower = tower_of().float()
    method = vpt.build("swin_prompt", tower, ["a", "b"], num_tokens=COUNT, deep=deep)
    shapes = {name: tuple(value.shape) for name, value in method.learned_state().items()}
    of_deep = {"deep_prompt_embeddings_0": (1, 3, 8), "deep_prompt_embeddings_1": (2, 3, 16)} if deep else {}
    head = {"head.last_layer.weight": (2, 16), "head.last_layer.bias": (2,)}
    assert shapes == {"prompt_embeddings": (1, 3, 8), **of_deep, **head}
    twin = vpt.build("swin_prompt", tower, ["a", "b"], num_tokens=COUNT, deep=deep)
    twin.load_learned_state(method.learned_state())
    images = random_images(tower).float()
    assert torch.equal(twin(images), method(images))


METHODS = ["swin_prompt", "linear", "bias", "full", "partial", "adapter", "lora", "pad", "below"]


@pytest.mark.parametrize("name", METHODS)
def test_methods_learn_on_swin(name):
    tower = tower_of().float()
    method, images, labels = (
        vpt.build(name, tower, ["a", "b"]),
        random_images(tower, 4).float(),
        [0, 1, 0, 1],
    )
    before = method.learned_state()
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    losses = []
    for _ in range(8):
        loss = method.train().loss(images, torch.tensor(labels))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(value, before[key]) for key, value in method.learned_state().items())


def test_what_is_refused():
    swin, vit = tower_of(), load_vit("vit_tiny_patch16_224", "none")
    with pytest.raises(InputError, match="keeps its tokens in windows; METHOD.NAME swin_prompt"):
        vpt.build("prompt", swin, ["a", "b"])
    with pytest.raises(InputError, match="'vit_tiny_patch16_224' is no Swin of timm"):
        vpt.build("swin_prompt", vit, ["a", "b"])
    with pytest.raises(InputError, match="num_tokens is 0"):
        vpt.build("swin_prompt", swin, ["a", "b"], num_tokens=0)
    assert stage_sizes(swin) == [(2, 8), (2, 16)]
