"""Adapters: Pfeiffer's against the official numbers, every form against its equation, on borrowed backbones."""

import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError

CLASSES = [f"class {i}" for i in range(7)]


def randomised(method):
    torch.manual_seed(1)
    for parameter in (*method.blocks.parameters(), *method.attention.parameters()):
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


FORMS = [
    {},
    {"sequential": True},
    {"sequential": True, "norm": "out"},
    {"parallel": True},
    {"parallel": True, "norm": "in"},
    {"parallel": True, "norm": "out", "learned_scale": True},
    {"parallel": True, "reads": "normed"},
]


@pytest.mark.parametrize("options", FORMS)
def test_every_form_by_hand(options, vit, inputs):
    """Every block written out: h + mlp(n) + what the adapter adds, n = norm2(h)."""
    method = randomised(vpt.build("adapter", vit, CLASSES, **options, scale=0.7))
    tokens = vit.enter(vit.embed(inputs["images"]))
    for block, adapter in zip(vit.blocks, method.blocks, strict=True):
        middle = tokens + block.attn(block.norm1(tokens))
        normed = block.norm2(middle)
        output = block.mlp(normed)
        given = output
        if "parallel" in options:
            given = normed if "reads" in options else middle
        tokens = middle + output + added(adapter, given, options)
    torch.testing.assert_close(method.features(inputs["images"]), vit.pool(tokens), atol=2e-5, rtol=0)


def added(adapter, given, options):
    norm = options.get("norm")
    hidden = adapter.adapter_downsample(adapter.adapter_norm(given) if norm == "in" else given)
    if not options:
        return adapter.adapter_upsample(torch.nn.functional.gelu(hidden))
    scale = adapter.adapter_scale if "learned_scale" in options else 0.7
    change = scale * adapter.adapter_upsample(hidden.relu())
    return adapter.adapter_norm(change) if norm == "out" else change


def test_the_start_of_adapt_former_is_the_backbone(vit, inputs):
    """Kaiming uniform weights of `down`, all else zero, a learned factor of 1."""
    before = vit(inputs["images"])
    for options in ({"parallel": True}, {"sequential": True}):
        method = vpt.build("adapter", vit, CLASSES, **options, learned_scale=True)
        torch.testing.assert_close(method.features(inputs["images"]), before, atol=1e-6, rtol=0)
        for adapter in method.blocks:
            weight = adapter.adapter_downsample.weight
            assert 0.1 < weight.abs().max() <= 64**-0.5 and adapter.adapter_scale.tolist() == [1.0]
            assert not adapter.adapter_downsample.bias.any() and not adapter.adapter_upsample.weight.any()
    assert vpt.build("adapter", vit, CLASSES).blocks[0].adapter_downsample.bias.any()


def test_dropout_falls_on_the_bottleneck_in_training_only(vit):
    method = randomised(vpt.build("adapter", vit, CLASSES, parallel=True, dropout=0.5, reduction=64))
    bottleneck, tokens = method.blocks[0], torch.randn(40, 64)
    torch.nn.init.constant_(bottleneck.adapter_downsample.bias, 5.0)  # ReLU lets all pass
    full = bottleneck.eval()(tokens) - 0.1 * bottleneck.adapter_upsample.bias
    some = bottleneck.train()(tokens) - 0.1 * bottleneck.adapter_upsample.bias
    assert {round(ratio, 2) for ratio in (some / full)[:, 0].tolist()} == {0.0, 2.0}


def test_a_batch_norm_before_the_head_and_the_official_names_of_a_checkpoint(vit, inputs):
    method = vpt.build("adapter", vit, CLASSES, parallel=True, reduction=32, head_norm=True).train()
    features = method.features(inputs["images"])
    normed = (features - features.mean(dim=0)) / (features.var(dim=0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(method(inputs["images"]), method.head.last_layer(normed), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="a batch norm normalises over a batch"):
        method(inputs["images"][:1])
    ours = method.learned_state()
    theirs = {
        name.replace("adapter_downsample", "adaptmlp.down_proj")
        .replace("adapter_upsample", "adaptmlp.up_proj")
        .replace("head.projection.0", "head.0")
        .replace("head.last_layer", "head.1"): torch.ones_like(value)
        for name, value in ours.items()
    }
    assert not set(theirs) & set(ours)
    method.load_learned_state(theirs)
    assert all((value == 1).all() for value in method.learned_state().values())


def test_a_layer_scale_scales_the_adapter_too():
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, init_values=0.5, num_classes=0
    )
    method = randomised(vpt.build("adapter", vit, CLASSES, reduction=4, parallel=True, scale=1.0))
    block, adapter, images = vit.blocks[0], method.blocks[0], torch.randn(2, 3, 32, 32)
    tokens = method.backbone.embed(images)
    tokens = tokens + block.ls1(block.attn(block.norm1(tokens)))
    adapted = adapter.adapter_upsample(adapter.adapter_downsample(tokens).relu())
    tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)) + adapted)
    torch.testing.assert_close(method.features(images), method.backbone.pool(tokens))


def swin():
    return load_vit(
        SwinTransformer(
            img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=0
        )
    )


def embedded():
    return load_vit("embedded")


def convnext():
    return load_vit(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=0))


def swin_v2():
    """Norms after the MLP: what enters the MLP is the stream."""
    sizes = dict(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 4))
    model = SwinTransformerV2(**sizes, num_classes=0)
    for stage in model.layers:
        torch.nn.init.ones_(stage.blocks[0].norm2.weight)  # timm starts from blocks that change nothing
    return load_vit(model)


@pytest.mark.parametrize(
    ("make", "options"),
    [*((make, {"parallel": on}) for make in (swin, embedded, convnext, swin_v2) for on in (False, True))]
    + [(make, {"sequential": True, "after_attention": True}) for make in (swin, embedded)],
)
def test_other_backbones_start_unchanged_learn_everywhere_and_stay_as_they_were(make, options):
    tower, images = make(), torch.randn(2, 3, 32, 32)
    before = tower(images)
    method = vpt.build("adapter", tower, ["a", "b"], **options, reduction=2)
    torch.testing.assert_close(method.features(images), before)
    randomised(method).loss(images, torch.tensor([0, 1])).backward()
    learned = [*method.blocks.parameters(), *method.attention.parameters()]
    assert all(parameter.grad.any() for parameter in learned)
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
    with pytest.raises(InputError, match="unknown reads of an adapter 'streem'; did you mean 'stream'"):
        vpt.build("adapter", vit, CLASSES, parallel=True, reads="streem")
    with pytest.raises(InputError, match="unknown norm of an adapter 'before'; one of: in, none, out"):
        vpt.build("adapter", vit, CLASSES, parallel=True, norm="before")
    with pytest.raises(InputError, match="parallel or sequential, not both"):
        vpt.build("adapter", vit, CLASSES, parallel=True, sequential=True)
    with pytest.raises(InputError, match="bottleneck is -1; take a width of 1 or more"):
        vpt.build("adapter", vit, CLASSES, bottleneck=-1)
    with pytest.raises(InputError, match="dropout is 1.5; it is a share from 0 to below 1"):
        vpt.build("adapter", vit, CLASSES, dropout=1.5)
    with pytest.raises(InputError, match="reduction is 65"):
        vpt.build("adapter", vit, CLASSES, reduction=65)
    with pytest.raises(InputError, match="'resnet18' has no blocks with an MLP"):
        vpt.build("adapter", load_vit("resnet18", pretrained="none"), CLASSES)
