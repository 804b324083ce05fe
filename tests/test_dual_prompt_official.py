"""DualPrompt against the numbers of dualprompt-pytorch: as it is, its reshape included, and as it was meant."""

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.engine.optim import build_optimizer

CLASSES = [f"class {label}" for label in range(10)]
LEARNED = ("g_prompt", "e_prompt.prompt", "e_prompt.prompt_key", "head.weight", "head.bias")


@pytest.fixture(scope="module")
def cases(golden_cases):
    """The golden cases: those of one pass, and training runs whose names begin with `engine`."""
    return golden_cases("vpt/dual_prompt")


def part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def in_our_layout(state):
    """The port's (layers, 2, pool, length, heads, D / heads) as our (pool, layers, 2, length, D)."""
    shaped = {key: value.flatten(-2) if value.dim() > 4 else value for key, value in state.items()}
    return shaped | {"e_prompt.prompt": shaped["e_prompt.prompt"].permute(2, 0, 1, 3, 4)}


def method_of(vit, state, **options):
    size, length = len(state["e_prompt.prompt_key"]), state["e_prompt.prompt"].shape[3]
    options = dict(size=size, e_length=length, g_length=state["g_prompt"].shape[2], whole_pool=True) | options
    method = vpt.build("dual_prompt", vit, CLASSES, **options)
    method.load_learned_state({name: state[name] for name in LEARNED})
    return method


def prepared(vit, cases, masks, name, **options):
    facts, expected = cases[name]
    layers = {
        ours: tuple(facts[theirs]) for ours, theirs in (("g_layers", "gl"), ("e_layers", "el")) if theirs in facts
    }
    batchwise = facts.get("batchwise", False)
    method = method_of(vit, expected, pull=facts["pull"], batchwise_test=batchwise, **layers, **options)
    task = facts["task_id"]
    method.train(facts["train"]).start_task(task, 10, masks[min(task, 1)] if facts["train"] else ())
    return method


READINGS = {"as_shipped": {"port_reshape": True}, "one_by_one": {}, "mended": {}}


@pytest.mark.parametrize("reading", READINGS)
def test_every_pass_of_the_port(reading, vit, l2p, cases, golden, check_step):
    images, labels = l2p[1]["images"], l2p[1]["labels"]
    masks = golden("vpt/dual_prompt")[0]["class_mask"]
    for name in (name for name in cases if not name.startswith("engine")):
        facts, tensors = cases[name]
        expected = part(tensors, f"{reading}/")
        method = prepared(vit, cases, masks, name, **READINGS[reading])
        if reading == "one_by_one":
            method.batchwise_test = False
        assert torch.equal(method.choices(images), expected["prompt_idx"]), name
        logits = method(images)
        torch.testing.assert_close(logits, expected["logits_unmasked"], atol=5e-5, rtol=0)
        torch.testing.assert_close(method.for_task(logits), expected["logits_masked"], atol=5e-5, rtol=0)
        if "similarity" in expected:
            torch.testing.assert_close(method.similarity(images), expected["similarity"], atol=1e-5, rtol=0)
        if "pre_logits" in expected:
            features = method.features(images, method.choices(images))
            torch.testing.assert_close(features, expected["pre_logits"], atol=5e-5, rtol=0)
        if not facts["train"]:  # the official evaluation has no pull in its loss
            torch.testing.assert_close(F.cross_entropy(logits, labels), expected["loss"], atol=1e-5, rtol=0)
            continue
        targets = labels + 5 * (facts["task_id"] > 0)
        gradients = part(expected, "grad/")
        if gradients:
            wanted = {f"grad/{key}": value for key, value in in_our_layout(gradients).items()}
            check_step(method, images, targets, {"loss": expected["loss"], **wanted})
        else:
            torch.testing.assert_close(method.loss(images, targets), expected["loss"], atol=1e-5, rtol=0)


def test_every_training_run_of_the_port(vit, l2p, cases, golden):
    """Two tasks of two epochs, a new Adam for each, gradients clipped at 1; a task starts from the prompts before."""
    masks = golden("vpt/dual_prompt")[0]["class_mask"]
    runs = [name for name in cases if name.startswith("engine")]
    assert runs
    for name in runs:
        facts, expected = cases[name]
        shared, port = facts["shared_prompt_pool"], name.endswith("as_shipped")
        method = method_of(vit, part(expected, "init/"), shared_pool=shared, port_reshape=port).train()
        losses = []
        for task in range(facts["tasks"]):
            method.start_task(task, 10, masks[task])
            losses += train(method, facts, task, l2p[1])
            after = part(expected, f"after_task{task}/")
            for key, value in in_our_layout(after).items() if after else ():
                torch.testing.assert_close(method.learned_state()[key], value, atol=1e-4, rtol=0, msg=f"{name} {key}")
        torch.testing.assert_close(torch.stack(losses), expected["loss_per_step"], atol=1e-4, rtol=0)


def train(method, facts, task, tensors):
    optimizer = build_optimizer(facts["optimizer"], method.named_parameters(), facts["lr"], 0.0)
    images, labels = (
        tensors[f"engine/train_{what}"][2 * task : 2 * task + 2].flatten(0, 1) for what in ("images", "labels")
    )
    losses = []
    for rows in torch.arange(16).split(facts["batch"]) * facts["epochs"]:
        loss = method.loss(images[rows], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in method.parameters() if p.requires_grad], facts["clip"])
        optimizer.step()
        losses.append(loss.detach())
    return losses
