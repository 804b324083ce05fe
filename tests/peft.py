"""The golden numbers of parameter-efficient methods on the tiny ViT: values, gradients, a short training."""

import pytest
import torch

from promptvision.engine.optim import build_optimizer

HEAD = {"head.weight": "head.last_layer.weight", "head.bias": "head.last_layer.bias"}
"""The classifier in the official codes, and here."""


def under(expected, prefix):
    """The tensors below `prefix` by our names of learned tensors."""
    found = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
    return {HEAD.get(name, name): value for name, value in found.items()}


def without_key_biases(tensors):
    """Set the keys' biases, and SSF's shifts of keys, to zero.

    No output depends on them: their gradients are rounding errors, which AdamW divides by their own size.
    """
    width = next(value for name, value in tensors.items() if name.startswith("head.") and value.dim() == 2).shape[1]
    keep = torch.ones(3 * width)
    keep[width : 2 * width] = 0
    return {
        name: value * keep if name.endswith(("qkv.bias", "attn.ssf_shift_1")) else value
        for name, value in tensors.items()
    }


def near(found, expected, **close):
    """Compare what the case holds; the compact set leaves out tensors of some blocks."""
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, **close)


@pytest.fixture(scope="session")
def check_peft(inputs, golden):
    """`check_peft(method, facts, expected)` compares a method with one official case.

    A learned tensor that the case does not give starts as the method's does.
    """

    def check(method, facts, expected):
        names = [HEAD.get(name, name) for name in facts["trainable"]]
        assert set(method.learned()) == set(names) and method.learned_parameters() == facts["trainable_count"]
        given = under({name: expected[name] for name in facts["trainable"] if name in expected}, "")
        method.load_learned_state(method.learned_state() | given)
        torch.testing.assert_close(method(inputs["images"]), expected["logits"], atol=5e-5, rtol=0)
        loss = method.loss(inputs["images"], inputs["labels"])
        loss.backward()
        torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
        gradients = {method.official_name(name): parameter.grad for name, parameter in method.trained().items()}
        if wanted := under(expected, "grad/"):
            near(gradients, wanted, atol=2e-5, rtol=1e-4)
        told, tensors = facts["trajectory"], golden("vpt/train_trajectory")[1]
        optimizer = build_optimizer(told["optimizer"], method.named_parameters(), told["lr"], told["weight_decay"])
        for step, theirs in enumerate(expected["trajectory/loss"]):
            rows = slice(step % 2 * 6, step % 2 * 6 + 6)
            loss = method.loss(tensors["train_images"][rows], tensors["train_labels"][rows])
            torch.testing.assert_close(loss, theirs, atol=1e-4, rtol=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learned = (method.learned_state(), under(expected, "trajectory/after/"))
        near(*map(without_key_biases, learned), atol=1e-4, rtol=0)
        torch.testing.assert_close(method(inputs["images"]), expected["trajectory/logits_after"], atol=1e-4, rtol=0)

    return check
