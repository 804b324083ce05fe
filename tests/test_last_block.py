"""The last block is computed for the first token alone: every ViT method is the same as in the plain way."""

import pytest
import torch
from open_clip.transformer import QuickGELU
from open_clip.transformer import VisionTransformer as ClipTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

import coop
import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.blocks import TokenHook
from promptvision.backbones.compute import Compute
from promptvision.backbones.open_clip_image import OpenClipImage
from promptvision.errors import InputError

CLASSES = ["a", "b", "c"]
VIT = dict(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2, num_classes=0)
KINDS = {
    "class token": {},
    "registers": dict(reg_tokens=3, init_values=0.5),
    "average": dict(global_pool="avg"),
    "no qkv bias": dict(qkv_bias=False, pre_norm=True),
}
CASES = {
    "linear": {},
    "linear, all layers": dict(mixture=True),
    "partial": {},
    "partial, all blocks": dict(blocks=3),
    "bias": {},
    "ln": {},
    "cls": {},
    "full": {},
    "adapter": {},
    "adapter, parallel": dict(parallel=True, bottleneck=4),
    "adapter, normed": dict(parallel=True, reads="normed", norm="in", learned_scale=True),
    "adapter, sequential": dict(sequential=True, bottleneck=4, norm="out"),
    "adapter, Houlsby": dict(sequential=True, after_attention=True, bottleneck=4),
    "convpass": dict(bottleneck=4),
    "repadapter": dict(bottleneck=4),
    "lora": dict(targets=("q", "k", "v", "o", "fc1", "fc2")),
    "diff_fit": {},
    "ssf": {},
    "fact": dict(rank=3, scale=2.0),
    "fact, tk": dict(decomposition="tk", rank=3),
    "side": {},
    "knn": dict(k=2),
    "prompt": dict(num_tokens=3),
    "prompt, deep": dict(num_tokens=3, deep=True),
    "vfpt": dict(num_tokens=3),
    "e2vpt": dict(num_tokens=3),
    "e2vpt, shallow": dict(num_tokens=3, deep=False, prune_tokens=0.4, pieces=8),
    "vqt": dict(num_queries=2),
    "dtl": dict(kernel=3),
    "prompt_ablations": dict(num_tokens=3, location="add", also="bias"),
    "prompt_ablations, last": dict(num_tokens=3, last=1, deep=True, delete_patches=True),
    "prompt_ablations, class token": dict(num_tokens=3, deep=True, pool="cls"),
    "pad": dict(border=8),
    "below": dict(num_tokens=2),
    "l2p": dict(size=4, top_k=2),
    "l2p, class token": dict(size=4, top_k=2, head_type="token"),
    "dual_prompt": dict(size=3),
    "coda_prompt": dict(size=6, length=4, layers=(0, 1)),
    "simple_cil": {},
    "aper": dict(parallel=True, bottleneck=4),
    "ease": dict(bottleneck=4),
    "ran_pac": dict(projection=5),
    "ran_pac, alone": dict(host="none", projection=5),
    "layer_pools": dict(size=3, e_layers=(1,), g_layers=(0,)),
    "layer_pools, last": dict(size=3, e_layers=(2,), g_layers=(0,)),
}
"""Options of each row, by `method` or `method, what`."""
WAYS = ("plain", "auto")
DRAWS = {
    "full": dict(dropout=0.3),
    "adapter": dict(dropout=0.3),
    "adapter, parallel": dict(parallel=True, dropout=0.3),
    "convpass": dict(bottleneck=4, dropout=0.3),
    "repadapter": dict(bottleneck=4, dropout=0.3),
    "lora": dict(dropout=0.3),
    "fact": dict(dropout=0.3),
    "prompt": dict(dropout=0.3, deep=True),
    "vqt": dict(dropout=0.3),
}
ALL_TOKENS = ("dtl",)
"""Methods whose feature is made of the last block's patches."""


def tower_of(kind):
    torch.manual_seed(0)
    if kind == "swin":
        model = SwinTransformer(
            img_size=32, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=0
        )
    elif kind == "clip":
        sizes = dict(image_size=32, patch_size=16, width=32, layers=3, heads=2, mlp_ratio=2, output_dim=8)
        model = OpenClipImage(ClipTransformer(**sizes, act_layer=QuickGELU))
    else:
        model = VisionTransformer(**VIT, **KINDS[kind])
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return load_vit(model.double())


def step(case, kind, compute, options=None):
    """Loss and gradients of a step of training, and logits."""
    tower = tower_of(kind)
    tower.compute = compute
    torch.manual_seed(1)
    method = vpt.build(case.partition(",")[0], tower, CLASSES, **CASES[case] if options is None else options).double()
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    torch.manual_seed(2)
    images, labels = torch.randn(4, 3, 32, 32).double(), torch.tensor([0, 1, 2, 0])
    if case.startswith("knn"):
        method.prepare([(images, labels)], [])
        return {"logits": method(images)}
    if case in ("simple_cil", "ran_pac, alone"):
        method.finish([(images, labels)], [])
        return {"logits": method(images)}
    method.train()
    loss = method.loss(images, labels)
    loss.backward()
    found = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), "logits": method.eval()(images).detach(), **found}


def counted(work):
    with FlopCounterMode(display=False) as counter:
        found = work()
    return found, counter.get_total_flops()


def check_same(case, kind):
    (plain, plain_flops), (fast, flops) = (counted(lambda way=way: step(case, kind, Compute(way))) for way in WAYS)
    assert plain.keys() == fast.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(fast[name], expected, atol=1e-12 * max(1, expected.abs().max()), rtol=0, msg=name)
    return flops / plain_flops


def kept(work):
    """The result of the work, and the bytes that autograd keeps for backward meanwhile, every storage once."""
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return work(), sum(sizes.values())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("case", "options"),
    [*((case, None) for case in CASES), *DRAWS.items()],
    ids=[*CASES, *(f"{d}, draws" for d in DRAWS)],
)
def test_checkpoints_change_no_bit(case, options, way):
    kind = "clip" if case == "full" and options else "class token"
    (plain, most), (found, less) = (
        kept(lambda on=on: step(case, kind, Compute(way, checkpoint=on), options)) for on in (False, True)
    )
    assert plain.keys() == found.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    if case in ("full", "bias", "adapter", "lora", "prompt, deep", "pad"):
        assert less < 0.8 * most


@pytest.mark.parametrize("name", ["vpt", "maple", "clip_lora"])
def test_checkpoints_of_a_clips_image_tower_change_no_bit(name):
    found, images = [], torch.randn(2, 3, 32, 32)
    for on in (False, True):
        torch.manual_seed(1)
        method = coop.build(name, load_clip("embedded", compute=Compute(checkpoint=on)), CLASSES).train()
        torch.manual_seed(2)
        loss, less = kept(lambda method=method: method.loss(images, torch.tensor([0, 1])))
        loss.backward()
        found.append([less, loss.detach(), *(p.grad for p in method.parameters() if p.requires_grad)])
    (most, *plain), (less, *again) = found
    assert less < most and all(torch.equal(*pair) for pair in zip(plain, again, strict=True))


def test_checkpoints_of_prompts_in_a_swin():
    found = [step("swin_prompt", "swin", Compute(checkpoint=on), dict(num_tokens=2, deep=True)) for on in (False, True)]
    assert all(torch.equal(found[1][name], found[0][name]) for name in found[0])


def test_a_tower_without_blocks_cannot_learn_with_checkpoints():
    step("linear", "swin", Compute(checkpoint=True))
    with pytest.raises(InputError, match="has no blocks to compute again; set COMPUTE.CHECKPOINT to False"):
        step("bias", "swin", Compute(checkpoint=True))


def test_every_method_has_a_case():
    assert {case.partition(",")[0] for case in CASES} == set(vpt.METHODS) - {"swin_prompt"}


@pytest.mark.parametrize("kind", ["class token", "clip"])
@pytest.mark.parametrize("case", CASES)
def test_every_method_is_the_same_for_less(case, kind):
    less = check_same(case, kind)
    assert less == 1 if case in ALL_TOKENS else less < 1


@pytest.mark.parametrize("case", ["full", "adapter", "lora"])
@pytest.mark.parametrize(
    ("kind", "less"), [("registers", True), ("no qkv bias", True), ("average", False), ("swin", False)]
)
def test_other_towers_too(case, kind, less):
    assert (check_same(case, kind) < 1) == less


@pytest.mark.parametrize("single", [False, True])
def test_what_is_computed_of_the_last_block(single):
    """One query of the class token, and the MLP of one token."""
    tower, seen = tower_of("class token"), []
    images = torch.randn(2, 3, 32, 32).double()
    plain = tower.untouched(images)
    if single:
        tower, images, plain = tower.float(), images.float(), plain.float()
    tower.blocks[-1].norm2.register_forward_hook(TokenHook(lambda *call: seen.append(call[1][0].shape)))
    torch.testing.assert_close(tower(images), plain)
    assert seen == [(2, 1, 32)]


def hooked(tower):
    tower.blocks[-1].mlp.register_forward_hook(lambda module, args, output: output.mean(dim=1, keepdim=True) + output)


def hooked_around(tower):
    tower.model.blocks.register_forward_hook(lambda module, args, output: output + output.mean(dim=1, keepdim=True))


def parametrized(tower):
    weight_norm(tower.blocks[-1].attn.proj)


def dropping(tower):
    tower.blocks[-1].mlp.drop1.p = 0.5
    tower.train()


def with_other_norms(tower):
    tower.blocks[-1].attn.q_norm = torch.nn.LayerNorm(16).double()


@pytest.mark.parametrize("touch", [hooked, hooked_around, parametrized, dropping, with_other_norms])
def test_a_last_block_that_is_touched_is_computed_whole(touch):
    tower, images = tower_of("class token"), torch.randn(2, 3, 32, 32).double()
    before = tower(images)
    touch(tower)
    found = []
    for way in WAYS:
        tower.compute = Compute(way)
        torch.manual_seed(0)
        found.append(tower(images))
    assert torch.equal(*found)
    assert touch is parametrized or not torch.allclose(found[0], before, atol=1e-3)
    tower.compute = Compute("fast")
    if touch is hooked_around:
        assert torch.equal(tower(images), found[0])
    else:
        with pytest.raises(InputError, match="last block that the fast way does not know.*COMPUTE.WAY to auto"):
            tower(images)


@pytest.mark.parametrize("kind", ["average", "swin"])
def test_a_tower_that_pools_all_tokens_is_its_own_code_in_every_way(kind):
    tower, images = tower_of(kind), torch.randn(2, 3, 32, 32).double()
    for way in (*WAYS, "fast"):
        tower.compute = Compute(way)
        assert torch.equal(tower(images), tower.untouched(images))


def test_images_of_another_size_where_the_model_takes_them():
    tower = load_vit(VisionTransformer(**VIT, dynamic_img_size=True))
    images = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(tower(images), tower.untouched(images))
