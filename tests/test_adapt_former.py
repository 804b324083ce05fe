"""AdaptFormer against the numbers of its official code, and the names of its checkpoints."""

import pytest
import torch
from official_vit import CLASSES, ours

import vpt


def built(vit, facts, **changes):
    """The method of a golden case."""
    learned = facts["scale"] == "learnable_scalar"
    options = {
        "bottleneck": facts["bottleneck"],
        facts["option"]: True,
        "norm": facts["layernorm"],
        "learned_scale": learned,
        "scale": 0.1 if learned else float(facts["scale"]),
    }
    return vpt.build("adapter", vit, CLASSES, **options | changes)


def test_every_case_of_the_official_code(vit, golden_cases, check_official):
    for facts, expected in golden_cases("vpt/adaptformer").values():
        check_official(built(vit, facts), facts, expected)


def test_the_normed_input_of_the_equation_is_another_method(vit, inputs, golden_cases):
    facts, expected = golden_cases("vpt/adaptformer")["parallel_none_b16_s0.1"]
    method = built(vit, facts, reads="normed")
    method.load_learned_state({name: expected[name] for name in facts["trainable"]})
    assert (method(inputs["images"]) - expected["logits"]).abs().max() > 3e-3


@pytest.mark.parametrize(
    ("code", "case", "options"),
    [
        ("adaptformer", "parallel_none_b16_s0.1", dict(parallel=True, bottleneck=16)),
        ("ln_difffit_adapters", "houlsby_b8_s0.1", dict(sequential=True, after_attention=True, bottleneck=8)),
    ],
)
def test_checkpoints_with_the_official_names_load(code, case, options, vit, golden_cases):
    facts, expected = golden_cases(f"vpt/{code}")[case]
    method = vpt.build("adapter", vit, CLASSES, **options)
    method.load_learned_state({name: expected[name] for name in facts["trainable"]})
    state = method.learned_state()
    assert all(torch.equal(state[name], value) for name, value in ours(expected).items() if name in state)
