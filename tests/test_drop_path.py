"""Stochastic depth of a frozen backbone: timm's draws, their shares, and that evaluation knows none."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.backbones.compute import Compute
from promptvision.errors import InputError

CLASSES = ["a", "b"]
SIZES = dict(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0)
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", ["plain", "auto"])
def test_it_draws_what_timm_draws(way):
    torch.manual_seed(0)
    theirs = VisionTransformer(**SIZES, init_values=0.5, drop_path_rate=0.6)
    own = VisionTransformer(**SIZES, init_values=0.5)
    own.load_state_dict(theirs.state_dict())
    method = vpt.build("ln", load_vit(own), CLASSES, drop_path=0.6).train()
    method.backbone.compute = Compute(way)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = method.head(theirs.train()(IMAGES))
        torch.manual_seed(seed)
        torch.testing.assert_close(method(IMAGES), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(method.eval()(IMAGES), method.head(theirs.eval()(IMAGES)), atol=1e-5, rtol=0)
    assert not any(module._forward_hooks for module in own.modules())


@pytest.mark.parametrize("name", ["bias", "ln", "diff_fit", "ssf", "fact", "adapter", "convpass", "repadapter", "dtl"])
def test_every_method_drops_in_training_only(name):
    method = vpt.build(name, load_clip("embedded").image, CLASSES, drop_path=0.9)
    assert torch.equal(method.eval()(IMAGES), method(IMAGES))
    assert not torch.allclose(method.train()(IMAGES), method(IMAGES), atol=1e-3)
    method.loss(IMAGES, torch.zeros(8).long()).backward()


def test_what_cannot_be_dropped_is_refused(swin):
    with pytest.raises(InputError, match="drop_path is 1.0; it is a share from 0 to below 1"):
        vpt.build("ln", load_vit("embedded"), CLASSES, drop_path=1.0)
    with pytest.raises(InputError, match="has no blocks that drop_path knows; choose a ViT"):
        vpt.build("bias", swin, CLASSES, drop_path=0.1)
