"""SSF against the numbers of its official code, and what it learns of a ViT-B/16."""

import pytest
import torch

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError

CLASSES = [f"class {i}" for i in range(7)]


def test_the_official_cases(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/ssf").values():
        check_official(vpt.build("ssf", vit, CLASSES), facts, expected)


def test_scales_start_near_one_and_shifts_near_zero(vit):
    state = vpt.build("ssf", vit, CLASSES).learned_state()
    for kind, mean in (("scale", 1.0), ("shift", 0.0)):
        found = torch.cat([value for name, value in state.items() if f"ssf_{kind}" in name])
        assert found.mean().item() == pytest.approx(mean, abs=2e-3) and found.std().item() == pytest.approx(
            0.02, rel=0.1
        )


def test_learned_parameters_of_a_vit_b16(vit_b16):
    assert vpt.build("ssf", vit_b16, CLASSES).learned_parameters() - 7 * 769 == 205_824


def test_a_negative_deviation_is_refused(vit):
    with pytest.raises(InputError, match="std is -0.1; a deviation is 0 or more"):
        vpt.build("ssf", vit, CLASSES, std=-0.1)


def test_other_blocks_are_refused_by_name(swin):
    with pytest.raises(InputError, match="has no blocks that SSF knows; choose a ViT"):
        vpt.build("ssf", swin, CLASSES)
    with pytest.raises(InputError, match=r"blocks of a kind that SSF does not know \(EvaBlock\)"):
        vpt.build("ssf", load_vit("eva02_tiny_patch14_224", pretrained="none"), CLASSES)
    with pytest.raises(InputError, match="makes its patches from a convolutional network's features"):
        vpt.build("ssf", load_vit("vit_tiny_r_s16_p8_224", pretrained="none"), CLASSES)
