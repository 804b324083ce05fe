"""Learning rates and optimisers against the official codes."""

import math
import re

import pytest
import torch

from promptvision.engine.optim import OPTIMIZERS, build_optimizer, learning_rates, set_rate
from promptvision.engine.vpt_adamw import VPTAdamW
from promptvision.errors import InputError


def dassl(settings, count):
    constant = settings["WARMUP_TYPE"] == "constant"
    return learning_rates(
        settings["LR_SCHEDULER"],
        settings["LR"],
        settings["MAX_EPOCH"],
        steps=settings["STEPSIZE"],
        gamma=settings["GAMMA"],
        warmup_epochs=settings["WARMUP_EPOCH"],
        warmup_type=settings["WARMUP_TYPE"],
        warmup_lr=settings["WARMUP_CONS_LR" if constant else "WARMUP_MIN_LR"],
        warmup_recount=settings["WARMUP_RECOUNT"],
        count=count,
    )


def test_dassl_schedules(golden):
    cases, _ = golden("coop/lr_schedules")
    assert len(cases) >= 16
    for name, case in cases.items():
        expected = [*case["lr_during_epoch"], case["lr_after_last_step"]]
        assert dassl(case["settings"], len(expected)) == pytest.approx(expected, rel=1e-12, abs=1e-15), name
        assert len(dassl(case["settings"], None)) == case["settings"]["MAX_EPOCH"]


def test_vpt_schedules(golden):
    tables, _ = golden("vpt/lr_schedule")
    for name, table in tables["tables"].items():
        warmup, total = map(int, re.findall(r"\d+", name))
        for rule, expected in table.items():
            rates = learning_rates(f"vpt_{rule}", 1.0, total, warmup_epochs=warmup)
            assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15), (name, rule)


def test_a_schedule_read_per_step_swings_back(golden):
    case, _ = golden("coop/dapl/lr_per_iteration")
    expected = case["lr_at_iteration"]
    rates = learning_rates("cosine", 3e-3, 25, warmup_epochs=1, warmup_type="linear", count=len(expected))
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_cosine_of_timm_and_that_of_petl_vit_an_epoch_late():
    """Measured in its official code: 1e-6 twice, 1.01e-4, most in epoch 11, 1.10e-5 in the last."""
    kind = dict(warmup_epochs=10, warmup_lr=1e-6, min_lr=1e-5)
    late = learning_rates("petl_cosine", 1e-3, 100, **kind)
    assert late[:3] == pytest.approx([1e-6, 1e-6, 1.009e-4], rel=1e-9)
    assert max(late) == late[11] == pytest.approx(9.76e-4, rel=1e-3) and late[-1] == pytest.approx(1.10e-5, rel=3e-3)
    assert late == [1e-6, *learning_rates("timm_cosine", 1e-3, 100, **kind, count=99)]
    assert learning_rates("timm_cosine", 1.0, 2, warmup_epochs=0) == [1.0, 0.5]


def test_the_cosine_of_coda_prompt_lags_an_epoch():
    found = learning_rates("coda_cosine", 2.0, 3, warmup_epochs=2)
    assert found == pytest.approx([2.0, 2.0, 2 * math.cos(99 * math.pi / 400)])
    assert learning_rates("coda_cosine", 2.0, 1) == [2.0]


def test_vpt_hard_restart_stays_at_zero():
    assert learning_rates("vpt_cosine_hardrestart", 1.0, 4, count=7)[4:] == [0.0, 0.0, 0.0]
    assert learning_rates("vpt_cosine", 1.0, 4, count=7)[5] > 0


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        ("constant", {}, [2, 2, 2, 2]),
        ("constant", {"warmup_epochs": 2, "warmup_lr": 1}, [1, 1, 2, 2]),
        ("cosine", {"warmup_epochs": 9, "warmup_lr": 1}, [1, 1, 1, 1]),
        ("cosine", {"warmup_epochs": 4, "warmup_recount": False, "warmup_lr": 1, "count": 5}, [1, 1, 1, 1, 2]),
        ("multi_step", {"steps": [-1]}, [2, 2, 2, 2]),
        ("multi_step", {"steps": [1, 3], "warmup_epochs": 2, "warmup_recount": False, "warmup_lr": 0}, [0, 0, 2, 0.2]),
        ("single_step", {"steps": [9, 2]}, [2, 2, 0.2, 0.2]),
    ],
)
def test_edges_of_the_rules(schedule, options, expected):
    assert learning_rates(schedule, 2.0, 4, **options) == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "vpt_adamw"])
def test_optimizers(golden, name):
    settings, tensors = golden("coop/optimizers")
    weight = torch.nn.Parameter(tensors["w0"].clone())
    optimizer = build_optimizer(name, [("w", weight)], settings["lr"], 5e-4, 0.9)
    for gradient, expected in zip(tensors["grads"], tensors[f"{name}.w"], strict=True):
        weight.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, atol=5e-7, rtol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_named_tensors_escape_decay(name):
    weight, bias = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = build_optimizer(name, [("weight", weight), ("bias", bias)], 0.1, 0.5, 0.9, no_decay={"bias"})
    weight.grad = bias.grad = torch.zeros(2)
    optimizer.step()
    assert (weight < 1).all()
    assert torch.equal(bias.detach(), torch.ones(2))


def test_frozen_tensors_are_left_out():
    frozen, learned = torch.nn.Parameter(torch.ones(2), requires_grad=False), torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer("sgd", [("frozen", frozen), ("learned", learned)], 0.1, 0.0)
    assert [group["params"] for group in optimizer.param_groups] == [[learned]]
    assert build_optimizer("sgd", [("frozen", frozen)], 0.1, 0.0) is None


def test_vpts_adamw_by_hand():
    """eps before the bias correction, 0.01 of decay on the new value and none for biases; WEIGHT_DECAY says nothing."""
    lr, gradients = 0.1, [0.3, -0.2]
    for name, decay in (("weight", 0.01), ("bias", 0.0)):
        value, mean, square = 2.0, 0.0, 0.0
        tensor = torch.nn.Parameter(torch.tensor([value]))
        optimizer = build_optimizer("vpt_adamw", [(name, tensor)], lr, 0.5)
        for step, gradient in enumerate(gradients, start=1):
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            correction = (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            value -= lr * correction * mean / (square**0.5 + 1e-6)
            value -= lr * decay * value
            tensor.grad = torch.tensor([gradient])
            optimizer.step()
        assert tensor.item() == pytest.approx(value, rel=1e-5)


def test_vpts_adamw_without_decay_is_sgd_and_ours_is_not():
    tensor = torch.nn.Parameter(torch.ones(1))
    assert isinstance(build_optimizer("vpt_adamw", [("w", tensor)], 0.1, 0.1), VPTAdamW)
    assert type(build_optimizer("vpt_adamw", [("w", tensor)], 0.1, 0.0)) is torch.optim.SGD
    ours = build_optimizer("adamw", [("w", tensor)], 0.1, 0.0)
    assert type(ours) is torch.optim.AdamW and ours.param_groups[0]["weight_decay"] == 0


def test_the_state_of_vpts_adamw_can_be_saved():
    def steps(optimizer, tensor, count):
        for _ in range(count):
            tensor.grad = tensor.detach().clone()
            optimizer.step()

    whole, halves = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    steps(build_optimizer("vpt_adamw", [("w", whole)], 0.1, 0.1), whole, 4)
    first = build_optimizer("vpt_adamw", [("w", halves)], 0.1, 0.1)
    steps(first, halves, 2)
    second = build_optimizer("vpt_adamw", [("w", halves)], 0.1, 0.1)
    second.load_state_dict(first.state_dict())
    steps(second, halves, 2)
    assert torch.equal(whole, halves)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_biases_learn_at_their_own_rate_but_for_the_heads_last(name):
    names = ("blocks.0.norm1.bias", "in_proj_bias", "weight", "head.last_layer.bias")
    tensors = {label: torch.nn.Parameter(torch.ones(1)) for label in names}
    optimizer = build_optimizer(name, tensors.items(), 0.1, 0.0, bias_multiplier=0.5)
    factors = {"blocks.0.norm1.bias": 0.5, "in_proj_bias": 0.5, "weight": 1.0, "head.last_layer.bias": 1.0}
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {label: 0.1 * factor for label, factor in factors.items()}
    )
    set_rate(optimizer, 3.0)
    assert {group["name"]: group["lr"] / 3 for group in optimizer.param_groups} == pytest.approx(factors)


def test_a_linear_warm_up_nearly_repeats_vpts_without_its_lost_epoch():
    published = learning_rates("vpt_cosine", 1.0, 100, warmup_epochs=10)
    sound = learning_rates("cosine", 1.0, 100, warmup_epochs=10, warmup_type="linear", warmup_lr=0.1)
    assert published[0] == 0 and sound[0] == 0.1
    assert sound[1:11] == pytest.approx(published[1:11])
    assert max(abs(ours - theirs) for ours, theirs in zip(sound, published, strict=True)) <= 0.1


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(InputError, match="unknown optimiser 'adamv'; did you mean 'adam"):
        build_optimizer("adamv", [], 0.1, 0.0)
    with pytest.raises(InputError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        learning_rates("cosin", 0.1, 3)
    with pytest.raises(InputError, match="unknown type of warm-up 'const'; did you mean 'constant'"):
        learning_rates("cosine", 0.1, 3, warmup_epochs=1, warmup_type="const")
