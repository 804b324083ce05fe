"""Shared parts of tests against the official codes of methods on CLIP: the tiny CLIP, its inputs, comparisons."""

import copy

import pytest
import torch

from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.engine.step import Step
from promptvision.engine.together.gradients import Learner, Wanted, compute
from promptvision.learned import learned_name


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


def steps(method, *batch):
    """The (loss, gradients by official name) of a step: as it is, with pinned towers, and among runs of a stack."""
    state = torch.get_rng_state()
    yield step(method, batch, state)
    method.pin()
    yield step(method, batch, state)
    method.pin(False)
    if method.stackable:
        yield stacked(method, batch)


def step(method, batch, state):
    torch.set_rng_state(state)
    method.zero_grad(set_to_none=True)
    loss = method.loss(*batch)
    loss.backward()
    return loss.detach(), gradients(method)


def stacked(method, batch):
    """The step as the second of three runs, whose learned tensors all differ."""
    runs = [copy.deepcopy(method) for _ in range(3)]
    for run, factor in zip(runs, (0.5, 1.0, 2.0), strict=True):
        run.zero_grad(set_to_none=True)
        for parameter in run.trained().values():
            parameter.data.mul_(factor)
    scaler, cpu = torch.amp.GradScaler("cpu", enabled=False), torch.device("cpu")
    each = [Step(run, torch.optim.SGD(run.trained().values()), scaler, cpu, "fp32", 0.0) for run in runs]
    wanted = [Wanted(n, one, Learner(run), batch, 1.0) for n, (one, run) in enumerate(zip(each, runs, strict=True))]
    compute(wanted)
    assert wanted[1].together == 3 and not any(one.error for one in wanted)
    return wanted[1].loss, gradients(runs[1])


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


@pytest.fixture(scope="session")
def check_training():
    """`check_training(method, expected, inputs, "sgd", 0.002)` repeats an official training of 4 epochs of 3 batches, a
    cosine after an epoch at 1e-5, and compares its rates, its losses and all that the method learned."""

    def check(method, expected, inputs, optimizer, rate, **options):
        optimizer = build_optimizer(optimizer, method.named_parameters(), rate, 5e-4, 0.9, method.no_decay, **options)
        rates = learning_rates("cosine", rate, 4, warmup_epochs=1, warmup_lr=1e-5, warmup_recount=True)
        for step, (wanted, theirs) in enumerate(zip(expected["traj.loss"], expected["traj.lr"], strict=True)):
            assert rates[step // 3] == pytest.approx(theirs.item(), rel=1e-9)
            set_rate(optimizer, rates[step // 3])
            loss = method.loss(inputs["batch_images"][step % 3], inputs["batch_labels"][step % 3])
            assert loss.item() == pytest.approx(wanted.item(), rel=1e-3), step
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learned = {f"traj.final.{name}": found for name, found in method.learned_state().items()}
        final = {name: wanted for name, wanted in expected.items() if name.startswith("traj.final.")}
        assert {f"traj.final.{learned_name(name)}" for name in method.trained()} <= final.keys() <= learned.keys()
        for name, wanted in final.items():
            most = 1e-3 * wanted.abs().max().item()
            torch.testing.assert_close(learned[name], wanted, atol=most, rtol=0, msg=name)

    return check
