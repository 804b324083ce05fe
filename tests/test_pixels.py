"""Borders and channels around the images of every kind of backbone."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.positions import resize_positions
from promptvision.errors import InputError
from vpt.prompt import init_bound

CLASSES = ["a", "b"]
LABELS = torch.tensor([0, 1])


def tiny_vit():
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    return load_vit(VisionTransformer(**sizes))


TOWERS = {
    "vit": tiny_vit,
    "clip": lambda: load_clip("embedded").image,
    "embedded": lambda: load_vit("embedded"),
    "resnet": lambda: load_vit("resnet10t", pretrained="none"),
    "convnext": lambda: load_vit("convnext_atto", pretrained="none"),
    "swin": lambda: load_vit("swin_tiny_patch4_window7_224", pretrained="none", image_size=64),
}
SIZES = {"resnet": 64, "convnext": 64, "swin": 64}


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", ["pad", "below"])
def test_every_backbone_takes_them(name, tower):
    backbone = TOWERS[tower]()
    size = backbone.image_size = SIZES.get(tower, backbone.image_size)
    images = torch.randn(2, 3, size, size)
    before = backbone(images)
    options = dict(border=16) if name == "pad" else dict(num_tokens=2)
    method = vpt.build(name, backbone, CLASSES, **options).train()
    method.loss(images, LABELS).backward()
    for key, parameter in method.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, key
    assert method.backbone.image_size == size and not method.backbone.training
    assert torch.equal(backbone(images), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    again = vpt.build(name, TOWERS[tower](), CLASSES, **options) if tower not in SIZES else None
    if again is not None:
        again.load_learned_state(method.learned_state())
        assert torch.equal(again(images), method.eval()(images))


def test_the_border_lies_around_the_image_and_is_normalised():
    method = vpt.build("pad", tiny_vit(), CLASSES, border=4)
    images = torch.randn(2, 3, 32, 32)
    padded = method.padded(images)
    assert torch.equal(padded[:, :, 4:-4, 4:-4], images)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (method.backbone.mean, method.backbone.std))
    pixels = padded * std + mean
    rows, columns = method.prompt_embeddings_tb[0], method.prompt_embeddings_lr[0]
    torch.testing.assert_close(pixels[1, :, :4], rows[:, :4])
    torch.testing.assert_close(pixels[1, :, -4:], rows[:, 4:])
    torch.testing.assert_close(pixels[1, :, 4:-4, :4], columns[..., :4])
    torch.testing.assert_close(pixels[1, :, 4:-4, -4:], columns[..., 4:])
    assert rows.min() >= 0 and rows.max() <= 1 and columns.std() > 0.2


@pytest.mark.parametrize("positions", ["timm", "official"])
def test_positions_are_resized_as_asked(positions):
    tower = tiny_vit()
    method = vpt.build("pad", tower, CLASSES, border=8, positions=positions)
    expected = resize_positions(tower, 48, positions).model.pos_embed
    assert torch.equal(method.backbone.model.pos_embed, expected)


def test_pixels_that_no_patch_covers_are_left_out():
    method = vpt.build("pad", tiny_vit(), CLASSES, border=2)
    method.loss(torch.randn(2, 3, 32, 32), LABELS).backward()
    assert method.prompt_embeddings_tb.grad[0, :, 2:].abs().sum() == 0


def test_channels_below_start_beside_the_colours():
    tower = tiny_vit()
    method = vpt.build("below", tower, CLASSES, num_tokens=3)
    weight, colours = method.backbone.model.patch_embed.proj.weight, tower.model.patch_embed.proj.weight
    assert weight.shape == (32, 6, 8, 8) and torch.equal(weight[:, :3], colours)
    assert weight[:, 3:].abs().max() <= init_bound(8, 32) and weight[:, 3:].std() > 0
    state = method.learned_state()
    assert list(state)[:3] == ["prompt_embeddings", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    silent = {**state, "prompt_embeddings": torch.zeros(1, 3, 32, 32)}
    method.load_learned_state(silent)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(method.backbone(torch.cat([images, torch.zeros(2, 3, 32, 32)], dim=1)), tower(images))


def test_refusals():
    with pytest.raises(InputError, match="border is 0"):
        vpt.build("pad", tiny_vit(), CLASSES, border=0)
    with pytest.raises(InputError, match="did you mean 'official'"):
        vpt.build("pad", tiny_vit(), CLASSES, positions="offical")
    with pytest.raises(InputError, match="fits images of 32 pixels, not \\(40, 40\\)"):
        vpt.build("pad", tiny_vit(), CLASSES)(torch.randn(1, 3, 40, 40))
    with pytest.raises(InputError, match="fit images of 32 pixels, not \\(40, 40\\)"):
        vpt.build("below", tiny_vit(), CLASSES)(torch.randn(1, 3, 40, 40))
    with pytest.raises(InputError, match="num_tokens is 0"):
        vpt.build("below", tiny_vit(), CLASSES, num_tokens=0)
    five = VisionTransformer(img_size=32, patch_size=8, in_chans=5, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    with pytest.raises(InputError, match="takes no channels beside the colours"):
        vpt.build("below", five, CLASSES)
