"""AdaptFormer against the numbers of its official code: values, gradients, training, and what its checkpoints hold."""

import torch

import vpt
from promptvision.engine.optim import build_optimizer

CLASSES = [f"class {i}" for i in range(7)]


def options_of(facts):
    """Our options of a golden case."""
    learned = facts["scale"] == "learnable_scalar"
    return {
        "bottleneck": facts["bottleneck"],
        facts["option"]: True,
        "norm": facts["layernorm"],
        "learned_scale": learned,
        "scale": 0.1 if learned else float(facts["scale"]),
    }


def method_of(vit, facts, expected, **changes):
    method = vpt.build("adapter", vit, CLASSES, **options_of(facts) | changes).train()
    method.load_learned_state({name: expected[name] for name in facts["trainable"]})
    return method


def ours(method, tensors):
    """Tensors under the official names, under the method's names."""
    kept = method.learned_state()
    method.load_learned_state(tensors)
    renamed = method.learned_state()
    method.load_learned_state(kept)
    return renamed


def part(expected, prefix):
    return {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}


def test_every_case_of_the_official_code(vit, inputs, golden, golden_cases, check_step):
    tensors = golden("vpt/train_trajectory")[1]
    for facts, expected in golden_cases("vpt/adaptformer").values():
        method = method_of(vit, facts, expected)
        assert method.learned_parameters() == facts["trainable_count"]
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        gradients = {f"grad/{name}": value for name, value in ours(method, part(expected, "grad/")).items()}
        check_step(method, inputs["images"], inputs["labels"], {"loss": expected["loss"], **gradients})
        losses = train(method, facts["trajectory"], tensors)
        torch.testing.assert_close(losses, expected["trajectory/loss"], atol=1e-4, rtol=0)
        after = ours(method, part(expected, "trajectory/after/"))
        for name, value in method.learned_state().items():
            torch.testing.assert_close(value, after[name], atol=1e-4, rtol=0, msg=name)
        torch.testing.assert_close(method(inputs["images"]), expected["trajectory/logits_after"], atol=1e-4, rtol=0)


def train(method, told, tensors):
    optimizer = build_optimizer(told["optimizer"], method.named_parameters(), told["lr"], told["weight_decay"])
    losses = []
    for step in range(told["steps"]):
        rows = slice(step % 2 * 6, step % 2 * 6 + 6)
        loss = method.loss(tensors["train_images"][rows], tensors["train_labels"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_the_normed_input_of_the_equation_is_another_method(vit, inputs, golden_cases):
    facts, expected = golden_cases("vpt/adaptformer")["parallel_none_b16_s0.1"]
    apart = method_of(vit, facts, expected, reads="normed")(inputs["images"]) - expected["logits"]
    assert apart.abs().max() > 3e-3
