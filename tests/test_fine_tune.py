"""LN-tuning and BitFit against the numbers of ViT_PEFT_Vision, and what they learn of other backbones."""

import pytest
from timm.models.vision_transformer import VisionTransformer

import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.config import load_config
from promptvision.config.families import FAMILIES
from promptvision.errors import InputError

CLASSES = [f"class {i}" for i in range(7)]


METHODS = {"ln": "ln", "bitfit": "bitfit", "difffit": "diff_fit"}


@pytest.mark.parametrize("case", METHODS)
def test_the_official_cases(case, vit, golden_cases, check_official):
    check_official(vpt.build(METHODS[case], vit, CLASSES), *golden_cases("vpt/ln_difffit_adapters")[case])


def test_bitfit_is_recorded_as_bias(tmp_path):
    (tmp_path / "a.yaml").write_text("METHOD: {FAMILY: vpt, NAME: bitfit}")
    assert load_config(tmp_path / "a.yaml", [], FAMILIES).METHOD.NAME == "bias"
    assert type(vpt.build("bitfit", load_vit("embedded"), CLASSES)) is vpt.METHODS["bias"]


def test_every_layer_norm_learns():
    sizes = dict(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=0)
    norms = ["norm_pre", "blocks.0.norm1", "blocks.0.norm2", "norm"]
    learned = vpt.build("ln", load_vit(VisionTransformer(**sizes, pre_norm=True, reg_tokens=2)), CLASSES).learned()
    assert learned[:-2] == [f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")]
    clip = vpt.build("ln", load_clip("embedded").image, CLASSES).learned()
    assert {"ln_pre.weight", "ln_post.bias", "transformer.resblocks.1.ln_2.weight"} < set(clip)
    with pytest.raises(InputError, match="'resnet18' has no layer norms to tune; choose a transformer"):
        vpt.build("ln", load_vit("resnet18", pretrained="none"), CLASSES)


@pytest.mark.parametrize(("name", "count"), [("ln", 38_400), ("bias", 102_912), ("diff_fit", 140_544)])
def test_learned_parameters_of_a_vit_b16(name, count, vit_b16):
    method = vpt.build(name, vit_b16, CLASSES)
    assert method.learned_parameters() - 7 * 769 == count
