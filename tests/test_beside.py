"""Modules in front of, beside and after attention and MLP: Convpass, RepAdapter, Houlsby's and Pfeiffer's adapters."""

import pytest
import torch
import torch.nn.functional as F
from official_vit import CLASSES, TOWERS, ours
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch.utils.flop_counter import FlopCounterMode

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.compute import Compute
from promptvision.errors import InputError
from vpt.convpass import Bypass
from vpt.parts.attach import attached
from vpt.parts.beside import placed
from vpt.repadapter import Map

HOULSBY = dict(sequential=True, after_attention=True, bottleneck=8)
METHODS = {"convpass": ("convpass", {}), "repadapter": ("repadapter", {}), "Houlsby": ("adapter", HOULSBY)}
WHERE = {"convpass": "beside", "repadapter": "front", "Houlsby": "after"}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(row, tower):
    """A method of METHODS whose modules are far from their start."""
    torch.manual_seed(1)
    name, options = METHODS[row]
    method = vpt.build(name, tower, CLASSES, **options)
    for key, parameter in method.trained().items():
        if not key.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.1)
    return method.eval()


def test_adapters_of_vit_peft_vision(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/ln_difffit_adapters").values():
        told = facts["options"]
        if "adapter_bottleneck" in told:
            form = "parallel" if told["ft_mlp_mode"] == "parallel" else "sequential"
            options = {"bottleneck": told["adapter_bottleneck"], "scale": float(told["adapter_scaler"]), form: True}
            method = vpt.build("adapter", vit, CLASSES, **options, after_attention="ft_attn_module" in told)
            check_official(method, facts, expected)


def test_convpass_as_published(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/convpass").values():
        options = {"bottleneck": facts["dim"], "scale": float(facts["scale"])}
        options["attention_only"] = facts["method"] == "convpass_attn"
        method = vpt.build("convpass", vit, CLASSES, **options)
        check_official(method, facts, expected)


def test_repadapter_as_published_and_merged(vit, inputs, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/repadapter").values():
        options = {"bottleneck": facts["dim"], "scale": float(facts["scale"]), "groups": facts["groups"]}
        options["attention_only"] = facts["method"] == "repattn"
        method = vpt.build("repadapter", vit, CLASSES, **options)
        method.load_learned_state(ours({name: expected[name] for name in facts["trainable"]}))
        merged = method.head(method.merged()(inputs["images"]))
        torch.testing.assert_close(merged, expected["merged_as_shipped/logits"], atol=5e-5, rtol=0)
        check_official(method, facts, expected)


def by_hand(row, method, images):
    """The features, with every block written out."""
    tower, second = method.backbone, getattr(method, "attention", None)
    tokens = tower.enter(tower.embed(images))
    for index, (block, modules) in enumerate(zip(tower.blocks, method.blocks, strict=True)):
        if hasattr(block, "ln_1"):
            parts = [(block.ln_1, lambda x, attn=block.attn: attn(x, x, x)[0], block.ls_1)]
            parts += [(block.ln_2, block.mlp, block.ls_2)]
        else:
            parts = [(block.norm1, block.attn, block.ls1), (block.norm2, block.mlp, block.ls2)]
        pair = (second[index], modules) if row == "Houlsby" else modules.values()
        for (norm, work, scale), module in zip(parts, pair, strict=True):
            x, change = norm(tokens), method.change(module, images) if row == "convpass" else module
            if row == "convpass":
                y = work(x) + change(x)
            else:
                y = work(x + change(x)) if row == "repadapter" else work(x) + change(work(x))
            tokens = tokens + scale(y)
    return tower.pool(tokens)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("row", METHODS)
def test_every_block_by_hand(row, kind):
    tower = TOWERS[kind]()
    method = built(row, tower)
    expected, before = by_hand(row, method, IMAGES), tower(IMAGES)
    assert not torch.allclose(expected, before, atol=1e-2)
    for way in ("plain", "auto"):
        tower.compute = Compute(way)
        torch.testing.assert_close(method.features(IMAGES), expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(tower(IMAGES), before) and not any(module._forward_hooks for module in tower.modules())


@pytest.mark.parametrize("row", METHODS)
def test_the_start_is_the_backbone_and_all_can_learn(row):
    tower = TOWERS["DINOv2's registers"]()
    method = vpt.build(METHODS[row][0], tower, CLASSES, **METHODS[row][1])
    torch.testing.assert_close(method.features(IMAGES), tower(IMAGES))
    built(row, tower).loss(IMAGES, torch.tensor([0, 1])).backward()
    moved = built(row, tower)
    moved.loss(IMAGES, torch.tensor([0, 1])).backward()
    assert all(parameter.grad.any() for parameter in moved.trained().values())


def test_each_init_of_an_adapter():
    def weights(init):
        method = vpt.build("adapter", TOWERS["class token"](), CLASSES, **HOULSBY, init=init)
        for each in (*method.blocks, *method.attention):
            assert not each.adapter_downsample.bias.any() and not each.adapter_upsample.bias.any()
            yield each.adapter_downsample.weight.abs().max().item(), each.adapter_upsample.weight.abs().max().item()

    bound = (6 / (32 + 8)) ** 0.5  # Xavier uniform, D = 32, d = 8
    for down, up in weights("xavier"):
        assert 0.9 * bound < min(down, up) and max(down, up) <= bound
    for down, up in weights("lora"):
        assert 0.9 * bound < down <= bound and up == 0


def test_class_token_and_registers_are_images_of_their_own_in_convpass():
    torch.manual_seed(0)
    bypass, tokens = Bypass(16, 4, 2.0, "xavier", 0.0), torch.randn(2, 3 + 2 * 4, 16)
    torch.nn.init.normal_(bypass.adapter_up.weight)
    change = bypass(tokens, 3, aspect=0.5)
    for index in range(3):
        alone = bypass(tokens[:, index : index + 1], 1, aspect=1.0)
        torch.testing.assert_close(change[:, index : index + 1], alone)
    moved = tokens.clone()
    moved[:, 3] += 1.0  # the patch in the first row and column of 2 x 4
    seen = (bypass(moved, 3, aspect=0.5) - change).abs().amax(dim=(0, 2)) > 1e-6
    assert seen.nonzero().flatten().tolist() == [3, 4, 7, 8]


def test_the_map_of_repadapter_is_two_convolutions_and_a_factor():
    torch.manual_seed(0)
    made, tokens = Map(16, 4, 2, 3.0, 0.0), torch.randn(2, 5, 16)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    hidden = F.conv1d(tokens.transpose(1, 2), made.conv_A.weight, made.conv_A.bias)
    wanted = 3 * F.conv1d(hidden, made.conv_B.weight, made.conv_B.bias, groups=2).transpose(1, 2)
    torch.testing.assert_close(made(tokens), wanted, atol=1e-4, rtol=1e-5)


COUNTS = {
    "convpass": (dict(), 2 * 12 * (2 * 768 * 8 + 9 * 64 + 2 * 8 + 768), 327_552),
    "convpass, attention": (dict(attention_only=True), 12 * (2 * 768 * 8 + 9 * 64 + 2 * 8 + 768), 327_552 // 2),
    "repadapter": (dict(), 2 * 12 * (768 * 8 + 8 + 768 * 4 + 768), 239_808),
    "adapter, Houlsby": (HOULSBY, 2 * 12 * (2 * 768 * 8 + 8 + 768), 313_536),
    "adapter, Pfeiffer": (dict(sequential=True, bottleneck=8), 12 * (2 * 768 * 8 + 8 + 768), 313_536 // 2),
}


@pytest.mark.parametrize("row", COUNTS)
def test_learned_parameters_on_vit_b16_without_the_head(row):
    options, formula, stated = COUNTS[row]
    with torch.device("meta"):
        method = vpt.build(row.partition(",")[0], load_vit("vit_base_patch16_224", "none"), ["a", "b"], **options)
    assert method.learned_parameters() - 769 * 2 == formula == stated


def flops(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("row", METHODS)
def test_a_step_costs_the_modules_and_the_frozen_part_above_the_first(row, kind):
    """The floor: gradients of tokens from the first module on, and of what each module learns."""
    tower, calls, labels = TOWERS[kind](), [], torch.tensor([0, 1])
    method = built(row, tower).train()
    inner = [m for m in method.modules() if type(m).__name__ in ("Bypass", "Map", "Bottleneck")]
    hooks = [m.register_forward_pre_hook(lambda *call: calls.append(call), with_kwargs=True) for m in inner]
    step = flops(lambda: method.loss(IMAGES, labels).backward())
    for hook in hooks:
        hook.remove()

    def alone():
        for index, (module, (tokens,), options) in enumerate(calls):
            module(tokens.detach().requires_grad_(index > 0), **options).sum().backward()

    tap = torch.zeros(1, requires_grad=True)
    with attached(placed(tower.blocks[0], "attention", WHERE[row], lambda tokens: tokens * tap, False)):
        frozen = flops(lambda: F.cross_entropy(method.head(tower(IMAGES)), labels).backward())
    assert len(calls) == 2 * tower.depth
    assert 0.97 < step / (frozen + flops(alone)) < 1.03


def convnext():
    return load_vit(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=0))


def swin_v2():
    sizes = dict(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 4))
    return load_vit(SwinTransformerV2(**sizes, num_classes=0))


def eva():
    sizes = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    return load_vit(Eva(**sizes, use_rot_pos_emb=True, qkv_fused=False))


@pytest.mark.parametrize(
    ("row", "make", "said"),
    [
        ("convpass", convnext, "kind that Convpass does not know .ConvNeXtBlock"),
        ("convpass", swin_v2, "kind that Convpass does not know .SwinTransformerV2Block"),
        ("repadapter", eva, "kind that RepAdapter does not know .EvaBlock"),
        ("Houlsby", convnext, "kind that an adapter after attention does not know .ConvNeXtBlock"),
        ("Houlsby", swin_v2, "kind that an adapter after attention does not know .SwinTransformerV2Block"),
    ],
)
def test_unknown_blocks_are_refused_by_name(row, make, said):
    with pytest.raises(InputError, match=f"{said}.; choose a ViT"):
        vpt.build(METHODS[row][0], make(), CLASSES, **METHODS[row][1])


def test_bad_options_are_refused(vit):
    with pytest.raises(InputError, match="'resnet18' has no transformer blocks"):
        vpt.build("convpass", load_vit("resnet18", pretrained="none"), CLASSES)
    for options, said in [
        ({"bottleneck": 0}, "bottleneck is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"init": "zero"}, "unknown init of Convpass 'zero'; one of: delta, xavier"),
    ]:
        with pytest.raises(InputError, match=said):
            vpt.build("convpass", vit, CLASSES, **options)
    with pytest.raises(InputError, match="groups is 3; it divides bottleneck 8 and width 64"):
        vpt.build("repadapter", vit, CLASSES, groups=3)
    with pytest.raises(InputError, match="parallel or after_attention, not both"):
        vpt.build("adapter", vit, CLASSES, parallel=True, after_attention=True)
