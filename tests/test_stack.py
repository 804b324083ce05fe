"""Runs that train together: which methods can, gradients of each run, and how a failed job is done again."""

from pathlib import Path

import pytest
import torch

import coop
import vpt
from promptvision.backbones import load_clip
from promptvision.config.families import FAMILIES
from promptvision.engine.step import Step
from promptvision.engine.together.gradients import Learner, Wanted, compute
from promptvision.sweep.jobs import Outcome
from promptvision.sweep.local import Queue

ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "dog", "golden_retriever"]
ROWS = [(family, name) for family in FAMILIES for name in FAMILIES[family].METHODS]
STACKABLE = {
    "coop": {
        "coop",
        "kg_coop",
        "tcp",
        "dapl",
        "task_res",
        "clip_adapter",
        "tip_adapter_f",
        "linear_probe",
        "dept",
        "at_prompt",
        "clap",
    },
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
    assert FAMILIES[family].METHODS.find(name).stackable == (name in STACKABLE[family])


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
    [
        (family, name, each)
        for family in STACKABLE
        for name in sorted(STACKABLE[family] - {"linear_probe"})
        for each in OPTIONS.get((family, name), [{}])
    ],
)
def test_gradients_together_are_those_of_each_run(family, name, options, towers):
    tower = towers[family]
    methods = built(family, name, options, tower)
    assert all(method.stackable for method in methods)
    extra = 1 if methods[0].wants_unlabelled else 0
    batches = [  # those of images and labels differ in size, as batches of other shots do
        [torch.randn(size, tower_dim(tower)), torch.arange(size) % 3, *[torch.randn(4, tower_dim(tower))] * extra]
        for size in ((4, 4, 4) if extra else (4, 2, 5))
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


@pytest.mark.parametrize("options", [{}, {"class_token_position": "front"}, {"csc": True}])
def test_prompts_of_many_runs_are_encoded_as_one(options):
    clip = load_clip("embedded").double()
    encoder, rows = coop.build("coop", clip, CLASSES, n_ctx=4, **options).encoder, []
    shape = (5, 3, 4, clip.text.width) if options.get("csc") else (5, 4, clip.text.width)
    contexts = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    encoder.packed.register_forward_pre_hook(lambda module, args: rows.append(len(args[2][0])))
    together = torch.func.vmap(lambda own: encoder(clip.text, own))(contexts)
    alone = torch.stack([encoder(clip.text, own) for own in contexts])
    assert rows == [5, 1, 1, 1, 1, 1]
    upstream = torch.randn_like(alone)
    for ours, theirs in (
        (together, alone),
        [torch.autograd.grad(each, contexts, upstream) for each in (together, alone)],
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_methods_that_draw_in_a_step_are_not_stackable(towers):
    assert not vpt.build("linear", towers["vpt"], CLASSES, hidden_layers=1).stackable
    assert not coop.build("coop", towers["coop"], CLASSES, reparameterize="lstm").stackable


def test_a_failed_job_of_a_group_is_tried_again_alone():
    queue, bad, good = Queue(["a", "b", "c"], [[0, 2], [1]]), Outcome([], ["broken"]), Outcome([{}], [])
    assert queue.next_group() == [0, 2]
    assert not queue.finished(0, good).again and queue.finished(2, bad).again
    assert [queue.next_group() for _ in range(3)] == [[1], [2], []]


def test_a_stack_on_a_cluster_is_refused(tool, tmp_path):
    words = ["--config", ROOT / "configs/benchmarks/embedded.yaml", "--output", tmp_path, "--ray", "auto"]
    status, _, err = tool("sweep", *words, "--stack", 4)
    assert status == 2 and "--stack trains runs together on this machine: leave out --ray" in err
