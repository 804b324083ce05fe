"""Methods that fold give a plain backbone with equal outputs, on which evaluation and predictions run."""

import pytest
import torch
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.engine.evaluate import predict
from promptvision.errors import InputError
from vpt.parts.heads import FOLDING, HeadMethod

CLASSES = ["a", "b", "c"]
VIT = dict(img_size=32, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0)
SWIN = dict(img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=0)
EVA = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0, use_rot_pos_emb=True)
TOWERS = {
    "vit": lambda: load_vit(VisionTransformer(**VIT)),
    "registers": lambda: load_vit(VisionTransformer(**VIT, reg_tokens=3, init_values=0.5, qkv_bias=False)),
    "average": lambda: load_vit(VisionTransformer(**VIT, global_pool="avg")),
    "clip": lambda: load_clip("embedded").image,
    "swin": lambda: load_vit(SwinTransformer(**SWIN)),
    "eva": lambda: load_vit(Eva(**EVA, qkv_fused=False, swiglu_mlp=False)),
}
CASES = {
    "lora": dict(targets=("q", "k", "v", "o", "fc1", "fc2"), dropout=0.5),
    "diff_fit": {},
    "ssf": {},
    "fact": dict(rank=3, scale=10.0, dropout=0.5),
    "repadapter": dict(bottleneck=4, scale=0.5, dropout=0.5),
    "fact, tk": dict(rank=3, scale=10.0, decomposition="tk"),
}
"""Options of each row, by `method` or `method, what`."""
ANY_BLOCK = ("lora",)
"""Methods that know blocks of Swin and EVA too."""
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def moved(name, kind):
    """A method whose learned tensors are far from their start."""
    torch.manual_seed(0)
    method = vpt.build(name.partition(",")[0], TOWERS[kind](), CLASSES, **CASES[name])
    for parameter in method.trained().values():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return method.eval()


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in CASES for kind in TOWERS if name in ANY_BLOCK or kind not in ("swin", "eva")],
)
def test_the_merged_backbone_has_equal_outputs_and_the_own_one_is_untouched(name, kind):
    method = moved(name, kind)
    before, features = method.backbone(IMAGES), method.features(IMAGES)
    merged = method.train().merged()
    scale = features.abs().max().clamp(min=1)
    torch.testing.assert_close(merged(IMAGES) / scale, features / scale, atol=1e-5, rtol=0)
    assert torch.equal(method.backbone(IMAGES), before) and not torch.allclose(before, features, atol=1e-2)
    assert type(merged) is type(method.backbone) and not any(each.requires_grad for each in merged.parameters())
    assert not any(module._forward_hooks for module in merged.modules())


@pytest.mark.parametrize("name", CASES)
def test_evaluation_costs_what_the_plain_backbone_costs(name):
    plain, method, labels = vpt.build("linear", TOWERS["vit"](), CLASSES), moved(name, "vit"), torch.zeros(4).long()
    expected, flops = method(IMAGES), []
    for each in (plain, method):
        predictor = each.eval().predictor()
        with FlopCounterMode(display=False) as counter:
            predictor(IMAGES)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]
    logits, _ = predict(method, [(IMAGES, labels)], torch.device("cpu"))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_in_16_bits_changes_are_not_rounded_into_weights():
    method = moved("lora", "vit")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(method.predictor()(IMAGES), method(IMAGES))
    assert not torch.equal(method.predictor()(IMAGES), method(IMAGES))


def test_methods_that_do_not_fold_say_which_do():
    with pytest.raises(InputError, match=f"Adapter does not fold into the backbone's weights.*{', '.join(FOLDING)}"):
        vpt.build("adapter", TOWERS["vit"](), CLASSES).merged()
    heads = {name: each for name, each in vpt.METHODS.items() if issubclass(each, HeadMethod)}
    assert {name for name, each in heads.items() if each.merged is not HeadMethod.merged} == set(FOLDING)
    assert set(FOLDING) == {name.partition(",")[0] for name in CASES}
