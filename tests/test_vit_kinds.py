"""Every kind of timm ViT as a prompted backbone, against prompts put in through hooks on timm's own forward pass."""

import copy

import pytest
import timm
import torch
from packaging.version import Version
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

import vpt
from promptvision.backbones import load_vit
from promptvision.backbones.fast_image import prompted_features
from promptvision.errors import InputError

SIZES = dict(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0)
DINO_V3 = dict(use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="dinov3", rope_rotate_half=True)
EVA_02 = dict(swiglu_mlp=True, mlp_ratio=2.5, use_rot_pos_emb=True, ref_feat_shape=(2, 2))

KINDS = {
    "class token": (VisionTransformer, {}),
    "patches of 8": (VisionTransformer, dict(patch_size=8)),
    "patches of 14": (VisionTransformer, dict(patch_size=14, img_size=42)),
    "patches of 32": (VisionTransformer, dict(patch_size=32, img_size=64)),
    "MAE: average pool": (VisionTransformer, dict(global_pool="avg")),
    "average pool, no class token": (VisionTransformer, dict(global_pool="avg", class_token=False)),
    "average pool before the norm": (VisionTransformer, dict(global_pool="avg", fc_norm=False)),
    "SigLIP: attention pool, no class token": (VisionTransformer, dict(global_pool="map", class_token=False)),
    "CLIP: norm before": (VisionTransformer, dict(pre_norm=True)),
    "DeiT: distillation token": (VisionTransformerDistilled, {}),
    "DeiT 3: layer scale, class token without position": (
        VisionTransformer,
        dict(no_embed_class=True, init_values=1e-1),
    ),
    "DINOv2: registers": (VisionTransformer, dict(reg_tokens=4, no_embed_class=True, init_values=1e-1)),
    "registers with positions": (VisionTransformer, dict(reg_tokens=2)),
    "no positions": (VisionTransformer, dict(pos_embed="none")),
    "images of any size": (VisionTransformer, dict(dynamic_img_size=True)),
    "norm of queries and keys": (VisionTransformer, dict(qk_norm=True)),
    "parallel blocks": (VisionTransformer, dict(block_fn=ParallelScalingBlock)),
    "EVA: no rotation": (Eva, dict(global_pool="token")),
    "EVA-02": (Eva, dict(EVA_02)),
    "EVA-02 base: separate projections, norms within": (
        Eva,
        dict(EVA_02, qkv_fused=False, scale_mlp=True, scale_attn_inner=True),
    ),
    "EVA-02 CLIP: post-norm": (Eva, dict(EVA_02, use_post_norm=True, global_pool="token")),
    "DINOv3": (Eva, dict(DINO_V3, num_reg_tokens=4, no_embed_class=True, dynamic_img_size=True, global_pool="avg")),
    "DINOv3 token": (Eva, dict(DINO_V3, num_reg_tokens=4, no_embed_class=True, qkv_bias=False, global_pool="token")),
    "RoPE-ViT, mixed": (Eva, dict(use_rot_pos_emb=True, rope_type="mixed", use_abs_pos_emb=False)),
    "perception encoder: attention pool": (Eva, dict(use_rot_pos_emb=True, global_pool="map", class_token=True)),
}
NOT_FAST = ("norm of queries and keys", "parallel blocks", "EVA", "DINOv3", "RoPE", "perception")
COUNT = 5


def model_of(kind):
    constructor, options = KINDS[kind]
    torch.manual_seed(0)
    model = constructor(**{**SIZES, **options}).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype_of(kind)).requires_grad_(False)


def dtype_of(kind):
    """Double precision, except where the rotation of timm before 1.0.31 is single."""
    single = kind == "RoPE-ViT, mixed" and Version(timm.__version__) < Version("1.0.31")
    return torch.float32 if single else torch.float64


def by_hooks(model, images, prompts):
    """timm's own forward pass with (blocks, P, D) prompts, or (1, P, D), put in, exchanged and taken out by hooks."""
    model, at = copy.deepcopy(model), model.num_prefix_tokens

    def put(drop):
        def hook(block, args, kwargs):
            tokens, entering = args[0], prompts[index_of[block]].expand(len(args[0]), -1, -1)
            return (torch.cat([tokens[:, :at], entering, tokens[:, at + drop :]], dim=1), *args[1:]), kwargs

        return hook

    index_of = {model.norm_pre: 0, **{block: i for i, block in enumerate(model.blocks)}}
    model.norm_pre.register_forward_pre_hook(put(0), with_kwargs=True)
    for block in model.blocks:
        if isinstance(model, Eva):
            block.attn.num_prefix_tokens += COUNT
        if 0 < index_of[block] < len(prompts):
            block.register_forward_pre_hook(put(COUNT), with_kwargs=True)
    model.blocks[-1].register_forward_hook(lambda _, args, out: torch.cat([out[:, :at], out[:, at + COUNT :]], dim=1))
    return model.forward_head(model.forward_features(images), pre_logits=True)


def random_images(tower):
    return torch.randn(2, 3, tower.image_size, tower.image_size, dtype=next(tower.parameters()).dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_make_timms_forward_pass(kind):
    model = model_of(kind)
    tower, images = load_vit(model), random_images(load_vit(model))
    tokens = tower.enter(tower.embed(images))
    for block in tower.blocks:
        tokens = block(tokens)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(tower.pool(tokens), features) and torch.equal(tower.untouched(images), features)
    torch.testing.assert_close(tower(images), features)
    assert features.shape == (2, tower.feature_dim) and tower.depth == 3
    assert tokens.shape == (2, tower.prefix + (tower.image_size // tower.patch_size) ** 2, tower.width)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_equal_those_put_in_by_hooks(kind, deep, computed):
    model = model_of(kind)
    tower, images = load_vit(model), random_images(load_vit(model))
    prompts = torch.randn(3 if deep else 1, COUNT, tower.width, dtype=dtype_of(kind), requires_grad=True)
    close = dict(atol=1e-11, rtol=1e-9) if dtype_of(kind) == torch.float64 else dict(atol=1e-5, rtol=1e-4)
    ways = ["plain"] if kind.startswith(NOT_FAST) else ["plain", "fast"]
    assert (tower.views() is None) == (ways == ["plain"])
    expected = by_hooks(model, images, prompts)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).view_as(expected)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), prompts)
    for way in ways:
        features = prompted_features(computed(tower, way=way), images, prompts[0], list(prompts[1:]))
        torch.testing.assert_close(features, expected, **close)
        found = torch.autograd.grad((features * weights).sum(), prompts)[0]
        torch.testing.assert_close(found, gradient, **close)
    assert (gradient.abs().amax(-1) > 1e-9).all()
    assert (expected - tower(images)).abs().max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_prompt_tuning(kind):
    tower = load_vit(model_of(kind).float())
    method = vpt.build("prompt", tower, ["a", "b"], num_tokens=COUNT, deep=True)
    method.loss(random_images(tower).float(), torch.tensor([0, 1])).backward()
    assert method.prompt_embeddings.grad.abs().sum() > 0 and method.deep_prompt_embeddings.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_a_thawed_rotary_block_goes_by_its_own_name():
    tower = load_vit(model_of("EVA-02"))
    assert not any(name.startswith("_rotary") for name, _ in tower.named_modules())
    assert tower.blocks[0].norm1 is tower.model.blocks[0].norm1
    tower.blocks[-1].requires_grad_(True)
    thawed = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert thawed == {f"model.blocks.2.{name}" for name, _ in tower.model.blocks[2].named_parameters()}


def test_a_copy_of_a_rotary_tower_stands_alone():
    tower = load_vit(model_of("DINOv3"))
    twin, images = copy.deepcopy(tower), random_images(tower)
    twin.model.blocks[0].mlp.fc1.weight.data.zero_()
    for each in (tower, twin):
        tokens = each.embed(images)
        for block in each.blocks:
            tokens = block(tokens)
        assert torch.equal(each.pool(tokens), each.untouched(images))


REFUSED = {
    "resnet18": "'resnet18' has no tokens to put prompts among; choose a ViT",
    "mixer_s32_224": "'mixer_s32_224' has no tokens",
    "cait_xxs24_224": "'cait_xxs24_224' has tokens of an unknown kind; choose a ViT, DINO or EVA-02",
    "naflexvit_base_patch16_gap": "has tokens of an unknown kind; choose a ViT",
    "swinv2_tiny_window8_256": "unknown kind; choose a ViT, DINO or EVA-02, or a Swin of the first version",
    "beit_base_patch16_224": "'beit_base_patch16_224' adds a bias to every pair of its patches",
    "vit_relpos_small_patch16_224": "adds a bias to every pair of its patches, .*; choose a ViT, DINO or EVA-02",
    "swin_s3_tiny_224": "'swin_s3_tiny_224' keeps its tokens in windows; METHOD.NAME swin_prompt",
}


@pytest.mark.parametrize("name", REFUSED)
def test_backbones_that_take_no_prompts_say_why(name):
    with torch.device("meta"):
        tower = load_vit(name, "none")
    for step in (tower.embed, tower.pool, tower.normalize, tower.patchify):
        with pytest.raises(InputError, match=REFUSED[name]):
            step(torch.randn(1, 3, tower.image_size, tower.image_size))


def test_what_a_kind_lacks_is_told():
    siglip = load_vit(model_of("SigLIP: attention pool, no class token"))
    with pytest.raises(InputError, match="has no class token; choose a ViT that has one"):
        siglip.class_position  # noqa: B018
    with pytest.raises(InputError, match=r"takes images of 32 x 32 pixels, not \(48, 48\)"):
        siglip.embed(torch.randn(1, 3, 48, 48))
    hybrid = load_vit(timm.create_model("vit_tiny_r_s16_p8_224", img_size=32))
    with pytest.raises(InputError, match="makes its patches from a convolutional network's features"):
        hybrid.patchify(torch.randn(1, 3, 32, 32))


STEMS = {
    "vit_tiny_patch16_224": "patch_embed.proj",
    "swin_tiny_patch4_window7_224": "patch_embed.proj",
    "resnet18": "conv1",
    "resnet50d": "conv1.0",
    "convnext_atto": "stem.0",
}


@pytest.mark.parametrize("name", STEMS)
def test_stem_is_the_convolution_that_sees_the_pixels(name):
    with torch.device("meta"):
        tower = load_vit(name, "none")
    stem = getattr(*tower.stem)
    assert stem is tower.model.get_submodule(STEMS[name]) and stem.in_channels == 3


def test_stem_of_other_models():
    assert load_vit("embedded").stem[1] == "conv1"
    assert getattr(*load_vit(VisionTransformer(**SIZES)).stem).kernel_size == (16, 16)
    with pytest.raises(InputError, match="does not say which convolution"):
        load_vit(timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=0)).stem  # noqa: B018
