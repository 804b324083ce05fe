"""Shared parts of tests against the official codes of methods on CLIP: the tiny CLIP, its inputs, comparisons."""

import pytest
import torch

from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, set_rate


@pytest.fixture(scope="module")
def clip(golden):
    """The tiny CLIP of the golden numbers."""
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors")


@pytest.fixture(scope="module")
def coop_inputs(golden):
    """Images and labels of the golden numbers of CLIP's methods."""
    return golden("coop/inputs")[1]


def start_of(expected):
    """The learned tensors that a case starts from, `param.*`."""
    return {name.removeprefix("param."): value for name, value in expected.items() if name.startswith("param.")}


def near(found, wanted):
    torch.testing.assert_close(found, wanted, atol=2e-5 * max(1.0, wanted.abs().max().item()), rtol=0)


def near_each(found, expected, prefix, share):
    """Every tensor of `found` by name, to a share of the largest number of `expected[prefix + name]`."""
    for name, tensor in found.items():
        wanted = expected[f"{prefix}{name}"]
        torch.testing.assert_close(tensor, wanted, atol=share * wanted.abs().max().item(), rtol=0, msg=name)


def gradients(method):
    """The gradient of each learned tensor, by its official name."""
    return {method.official_name(name): parameter.grad for name, parameter in method.trained().items()}


def trained_at(method, expected, inputs, optimizer, rates, **close):
    """Repeat an official training at given rates; compare each loss, which is `close`, and then all learned tensors."""
    optimizer = build_optimizer(optimizer, method.named_parameters(), rates[0], 5e-4, 0.9, method.no_decay)
    for step, wanted in enumerate(expected["traj.loss"]):
        set_rate(optimizer, rates[step])
        loss = method.loss(inputs["batch_images"][step % 3], inputs["batch_labels"][step % 3])
        assert loss.item() == pytest.approx(wanted.item(), **close), step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    near_each(method.learned_state(), expected, "traj.final.", 1e-3)
