"""VFPT against the numbers of its official code, and the transform against its definition."""

import math

import pytest
import torch
from official_vit import CLASSES, TOWERS

import vpt
from promptvision.backbones import load_vit
from promptvision.errors import InputError


def options_of(facts):
    """Our options of a golden case."""
    told = {"NUM_TOKENS": 5, "DEEP": True, "FOURIER_PERCENTAGE": 0.5, **facts["prompt_cfg"]}
    ours = {"fraction": told["FOURIER_PERCENTAGE"], "dimensions": told.get("FOURIER_DIMENSION", "all")}
    return ours | {"num_tokens": told["NUM_TOKENS"], "deep": told["DEEP"]}


def test_every_case_of_the_official_code(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/vfpt").values():
        method = vpt.build("vfpt", vit, CLASSES, **options_of(facts))
        assert method.transformed == facts["fourier_tokens"]

        def settled(name, tensor, method=method):
            tensor = tensor.clone()
            if "prompt" in name and method.options["dimensions"] != "sequence":
                tensor[:, : method.transformed, 0] = 0
            return tensor

        check_official(method, facts, expected, settled)


def test_the_first_channel_of_a_transformed_prompt_counts_for_nothing(vit, inputs):
    """It is added to all channels alike, which the norm takes off: its gradient is rounding."""
    method = vpt.build("vfpt", vit, CLASSES, num_tokens=4)
    before = method(inputs["images"])
    with torch.no_grad():
        method.deep_prompt_embeddings[:, :2, 0] += 1.0
    torch.testing.assert_close(method(inputs["images"]), before)


@pytest.mark.parametrize("change", [dict(fraction=0.0), dict(dimensions="hidden"), dict(dimensions="sequence")])
def test_every_choice_changes_the_numbers(vit, inputs, golden_cases, change):
    facts, expected = golden_cases("vpt/vfpt")["deep_p5_half"]
    method = vpt.build("vfpt", vit, CLASSES, **options_of(facts) | change)
    method.load_learned_state({name: expected[name] for name in facts["trainable"]})
    assert (method(inputs["images"]) - expected["logits"]).abs().max() > 1e-2


def real_part(prompts, channels, sequence):
    """The real part of the transform, from its definition, in double precision."""
    count, dim = prompts.shape
    angle = torch.zeros(count, dim, count, dim, dtype=torch.double)
    rows, columns = torch.arange(count, dtype=torch.double), torch.arange(dim, dtype=torch.double)
    if sequence:
        angle += (torch.outer(rows, rows) / count)[:, None, :, None]
    if channels:
        angle += (torch.outer(columns, columns) / dim)[None, :, None, :]
    kernel = torch.cos(2 * math.pi * angle)
    if not sequence:
        kernel *= torch.eye(count, dtype=torch.double)[:, None, :, None]
    if not channels:
        kernel *= torch.eye(dim, dtype=torch.double)[None, :, None, :]
    return torch.einsum("kcpd,pd->kc", kernel, prompts)


@pytest.mark.parametrize("dimensions", ["all", "hidden", "sequence"])
def test_the_first_prompts_are_transformed_together(vit, dimensions):
    method = vpt.build("vfpt", vit.double(), CLASSES, num_tokens=5, fraction=0.7, dimensions=dimensions)
    for own, inserted in zip(method.double().embeddings(), method.prompts(2), strict=True):
        first = real_part(own[:3].detach(), dimensions != "sequence", dimensions != "hidden")
        torch.testing.assert_close(inserted, torch.cat([first, own[3:]]))


def test_without_transformed_prompts_it_is_vpt(vit, inputs):
    torch.manual_seed(0)
    method = vpt.build("vfpt", vit, CLASSES, fraction=0.05, num_tokens=10)
    torch.manual_seed(0)
    other = vpt.build("prompt", vit, CLASSES, num_tokens=10, deep=True)
    assert method.transformed == 0 and torch.equal(method(inputs["images"]), other(inputs["images"]))


def test_dropout_comes_before_the_transform(vit):
    method = vpt.build("vfpt", vit, CLASSES, num_tokens=4, fraction=1.0, dropout=0.5).train()
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(method.embeddings()[0].expand(2, -1, -1), 0.5)
    torch.manual_seed(3)
    torch.testing.assert_close(method.prompts(2)[0], torch.fft.fft2(dropped).real)


@pytest.mark.parametrize("kind", TOWERS)
def test_other_towers_take_transformed_prompts(kind):
    method = vpt.build("vfpt", TOWERS[kind](), CLASSES, project=8, num_tokens=3)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in method.trained().values())


def test_learned_parameters_on_vit_b16():
    """L P D without the head: those of VPT-deep."""
    with torch.device("meta"):
        tower = load_vit("vit_base_patch16_224", "none")
        method = vpt.build("vfpt", tower, CLASSES, num_tokens=10)
    assert method.learned_parameters() - 769 * 7 == 12 * 10 * 768


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(fraction=1.5), "fraction is 1.5; it is the share of transformed prompts, from 0 to 1"),
        (dict(dimensions="hiden"), "unknown dimensions 'hiden'; did you mean 'hidden'"),
    ],
)
def test_bad_options(vit, options, told):
    with pytest.raises(InputError, match=told):
        vpt.build("vfpt", vit, CLASSES, **options)
