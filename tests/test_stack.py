"""Runs that train together: the losses, the tensors and the files of each are those of the run alone."""

import pytest
import torch

import coop
import vpt
from promptvision.backbones import load_clip
from promptvision.config.families import FAMILIES
from promptvision.engine.stacked_step import Learner, Wanted, compute
from promptvision.engine.step import Step

CLASSES = ["cat", "dog", "golden_retriever"]
ROWS = [(family, name) for family in FAMILIES for name in FAMILIES[family].METHODS]
STACKABLE = {
    "coop": {"coop", "kg_coop", "tcp", "dapl", "task_res", "clip_adapter", "tip_adapter_f"},
    "vpt": {"linear"},
}
OPTIONS = {
    ("coop", "coop"): [{}, {"csc": True}, {"class_token_position": "front"}, {"reparameterize": "mlp"}],
    ("coop", "clip_adapter"): [{"text_ratio": 0.2}],
    ("coop", "tip_adapter_f"): [{"search": ()}],
    ("coop", "task_res"): [{"templates": ["a photo of a {}."]}],
}


@pytest.fixture(scope="module")
def towers(golden):
    clip = load_clip(golden.root / "coop/clip_vit_tiny.safetensors")
    return {"coop": clip, "vpt": clip.image}


@pytest.mark.parametrize(("family", "name"), ROWS)
def test_the_methods_that_are_stackable(family, name):
    assert FAMILIES[family].METHODS[name].stackable == (name in STACKABLE[family])


def built(family, name, options, tower, seeds=3):
    """The method for several seeds, each prepared on training features of its own."""
    methods = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        method = {"coop": coop, "vpt": vpt}[family].build(name, tower, CLASSES, **options)
        method.prepare([(torch.randn(6, tower_dim(tower)), torch.arange(6) % 3)], [])
        methods.append(method)
    return methods


def step_of(method):
    device = torch.device("cpu")
    optimizer = torch.optim.SGD(method.trained().values(), lr=0.1)
    return Step(method, optimizer, torch.amp.GradScaler("cpu", enabled=False), device, "fp32", 0.0)


def tower_dim(tower):
    return getattr(tower, "image", tower).feature_dim


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [(f, n, each) for f in STACKABLE for n in sorted(STACKABLE[f]) for each in OPTIONS.get((f, n), [{}])],
)
def test_gradients_together_are_those_of_each_run(family, name, options, towers):
    tower = towers[family]
    methods = built(family, name, options, tower)
    assert all(method.stackable for method in methods)
    extra = 1 if methods[0].wants_unlabelled else 0
    batches = [
        [torch.randn(4, tower_dim(tower)), torch.arange(4) % 3, *[torch.randn(4, tower_dim(tower))] * extra]
        for _ in methods
    ]
    steps = [step_of(method) for method in methods]
    losses = [step.backward(batch, 0.5).item() for step, batch in zip(steps, batches, strict=True)]
    learners = [Learner(method) for method in methods]
    wanted = [{k: p.grad.clone() for k, p in each.learned.items() if p.grad is not None} for each in learners]
    for method in methods:
        method.zero_grad()
    together = [Wanted(n, *each, 0.5) for n, each in enumerate(zip(steps, learners, batches, strict=True))]
    compute(together)
    assert [each.together for each in together] == [3, 3, 3] and not any(each.error for each in together)
    assert [each.loss.item() for each in together] == pytest.approx(losses, rel=1e-5)
    for each, gradients in zip(learners, wanted, strict=True):
        assert gradients and gradients.keys() == {k for k, p in each.learned.items() if p.grad is not None}
        for key, gradient in gradients.items():
            most = 1e-5 * gradient.abs().max().item()
            torch.testing.assert_close(each.learned[key].grad, gradient, atol=most, rtol=1e-5, msg=key)


def test_methods_that_draw_in_a_step_are_not_stackable(towers):
    assert not vpt.build("linear", towers["vpt"], CLASSES, hidden_layers=1).stackable
    assert not coop.build("coop", towers["coop"], CLASSES, reparameterize="lstm").stackable
