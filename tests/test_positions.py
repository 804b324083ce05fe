"""Towers for images of another size: the reference's numbers, timm's and scipy's resizing, shared weights."""

import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.positions import WAYS, resize_positions
from promptvision.errors import InputError

SIZES = dict(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0)


def test_the_official_way_gives_the_reference_numbers(vit, golden_cases):
    found = golden_cases("vpt/pos_embed_resize")
    assert len(found) >= 2
    for case, (_, expected) in found.items():
        tower = resize_positions(vit, int(case.removeprefix("crop")), "official")
        torch.testing.assert_close(tower.model.pos_embed, expected["pos_embed"], atol=1e-6, rtol=0)
        torch.testing.assert_close(tower(expected["images"]), expected["cls_feature"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["file", "npz", "safetensors", "module"])
def test_every_way_to_load_is_resized_alike(way, kind, vit, golden, google_layout, tmp_path):
    state = load_file(golden.root / "vpt/backbone.safetensors")
    expected = resize_positions(vit, 96, way).model.pos_embed
    model = VisionTransformer(**{**SIZES, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0})
    path = golden.root / "vpt/backbone.safetensors"
    if kind == "file":
        found = load_vit(path, image_size=96, resize=way)
    elif kind == "module":
        model.load_state_dict(state)
        found = load_vit(model, image_size=96, resize=way)
    else:
        found = load_vit(saved(kind, state, google_layout, tmp_path), image_size=96, resize=way)
    assert torch.equal(found.model.pos_embed, expected) and found.image_size == 96


def saved(kind, state, google_layout, folder):
    """The golden weights in a file of another kind, with the constructor of a model made for 224 pixels beside it."""
    args = dict(img_size=224, patch_size=16, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0)
    text = ", ".join(f"{key}={value}" for key, value in args.items())
    (folder / "w.json").write_text(f'{{"timm_constructor": "VisionTransformer({text}, num_classes=0)"}}')
    if kind == "npz":
        np.savez(folder / "w.npz", **google_layout(state, heads=4))
    else:
        save_file(state, folder / "w.safetensors")
    return folder / f"w.{kind}"


def test_timms_way_is_timms():
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES).eval()
    tower, images = load_vit(copy.deepcopy(model), image_size=112), torch.randn(1, 3, 112, 112)
    model.set_input_size(112)
    assert torch.equal(tower.untouched(images), model(images))
    assert not torch.allclose(load_vit(model, image_size=64, resize="official")(images[..., :64, :64]), tower(images))


def test_plain_bicubic_is_torchs():
    tower = load_vit(VisionTransformer(**SIZES))
    small, large = tower.model.pos_embed, resize_positions(tower, 128, "bicubic").model.pos_embed
    smaller, antialiased = (resize_positions(tower, 32, way).model.pos_embed for way in ("bicubic", "timm"))
    for found, side in ((large, 8), (smaller, 2)):
        pixels = small[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)
        torch.testing.assert_close(found[:, 1:], grid.flatten(2).transpose(1, 2))
    assert not torch.allclose(smaller, antialiased)


def test_the_official_way_keeps_corners_and_prefix():
    tower = load_vit(VisionTransformer(**SIZES, reg_tokens=2))
    tower.model.pos_embed.normal_()
    small, large = tower.model.pos_embed, resize_positions(tower, 128, "official").model.pos_embed
    assert torch.equal(large[:, :3], small[:, :3]) and large.shape == (1, 3 + 64, 32)
    for corner_of_large, corner_of_small in ((0, 0), (7, 3), (56, 12), (63, 15)):
        torch.testing.assert_close(large[:, 3 + corner_of_large], small[:, 3 + corner_of_small])


MODELS = {
    "vit": lambda: VisionTransformer(**SIZES),
    "positions of patches only": lambda: VisionTransformer(**SIZES, no_embed_class=True, reg_tokens=1),
    "any size": lambda: VisionTransformer(**SIZES, dynamic_img_size=True),
    "rotary": lambda: Eva(**SIZES, use_rot_pos_emb=True),
    "rotary only": lambda: Eva(
        **SIZES, use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3", dynamic_img_size=True
    ),
    "rotary mixed": lambda: Eva(**SIZES, use_rot_pos_emb=True, rope_type="mixed"),
    "swin": lambda: SwinTransformer(
        img_size=64, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=0
    ),
    "convnet": lambda: timm.create_model("resnet10t", num_classes=0),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_all_weights_but_positions_are_shared_and_the_first_tower_is_left_alone(kind, way):
    torch.manual_seed(0)
    tower, images = load_vit(MODELS[kind](), image_size=64), torch.randn(1, 3, 64, 64)
    before = tower(images)
    resized = resize_positions(tower, 128, way)
    assert resized(torch.randn(1, 3, 128, 128)).shape == (1, tower.feature_dim)
    assert (resized.image_size, tower.image_size) == (128, 64)
    assert torch.equal(tower(images), before)
    own, shared = dict(tower.named_parameters()), dict(resized.named_parameters())
    assert {name for name in own if own[name] is not shared[name]} <= {"model.pos_embed"}
    assert resize_positions(tower, 64, way) is tower
    for block_of_tower in resized.blocks:
        assert any(block_of_tower.get_submodule("norm1") is module for module in resized.modules())


@pytest.mark.parametrize("kind", ["rotary", "rotary only", "rotary mixed"])
def test_steps_of_a_resized_rotary_tower(kind):
    tower, images = load_vit(MODELS[kind](), image_size=96), torch.randn(1, 3, 96, 96)
    tokens = tower.enter(tower.embed(images))
    for block in tower.blocks:
        tokens = block(tokens)
    assert torch.equal(tower.pool(tokens), tower(images))


def test_swin_keeps_its_windows():
    tower = load_vit(MODELS["swin"](), image_size=128)
    assert {block.window_size for stage in tower.model.layers for block in stage.blocks} == {(4, 4)}


@pytest.mark.parametrize("way", WAYS)
def test_image_tower_of_a_clip(way):
    clip = load_clip("embedded", image_size=48, resize=way)
    positions = load_clip("embedded").image.model.positional_embedding
    assert clip.image(torch.randn(1, 3, 48, 48)).shape == (1, 128)
    resized = clip.image.model.positional_embedding
    assert torch.equal(resized[0], positions[0]) and resized.shape == (37, 128)
    corners = torch.allclose(resized[[1, 6, 31, 36]], positions[[1, 4, 13, 16]], atol=1e-6)
    assert corners == (way == "official")
    assert torch.equal(load_vit("embedded", image_size=48, resize=way).model.positional_embedding, resized)


def test_pixels_that_the_patch_does_not_divide_are_left_out_only_where_asked(vit):
    tower, images = resize_positions(vit, 72, "official"), torch.randn(1, 3, 72, 72)
    torch.testing.assert_close(tower(images), vit(images[..., :64, :64]), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="INPUT.SIZE 72: the 16 pixel patches of backbone .* take 64 or 80$"):
        load_vit(vit, image_size=72)
    with pytest.raises(InputError, match="do not divide it; take 16$"):
        load_vit(vit, image_size=5)


def test_towers_that_cannot_be_resized():
    rn = timm.create_model("mixer_s32_224", num_classes=0)
    with pytest.raises(InputError, match="one size only and cannot be brought to the 256 pixels of INPUT.SIZE"):
        load_vit(rn, image_size=256)
    with pytest.raises(InputError, match="unknown way to resize positions.*did you mean 'official'"):
        resize_positions(load_vit(MODELS["vit"]()), 128, "oficial")
