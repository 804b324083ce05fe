"""CODA-Prompt and its rivals against the numbers of its code: values, gradients, two tasks of training, their start."""

import pytest
import torch
import torch.nn.functional as F

import vpt
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate
from promptvision.errors import InputError

CLASSES = [f"class {label}" for label in range(10)]
THEIRS = {"components": "p", "component_key": "k", "attention": "a"}


@pytest.fixture(scope="module")
def cases(golden_cases):
    return golden_cases("vpt/coda_prompt")


def part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def method_of(vit, facts, state):
    size, length, ortho = facts["prompt_param"]
    method = vpt.build("coda_prompt", vit, CLASSES, size=int(size), length=int(length), ortho=ortho)
    method.load_learned_state({name: value for name, value in state.items() if name.startswith(("prompt.", "last."))})
    return method.train()


def in_our_layout(tensors):
    """The official tensors of every block under our names; the tower has blocks 0 to 3."""
    found = {ours: torch.stack([tensors[f"prompt.e_{p}_{layer}"] for layer in range(4)]) for ours, p in THEIRS.items()}
    return found | {f"head.{name}": tensors[f"last.{name}"] for name in ("weight", "bias")}


def passes(cases):
    return {name: case for name, case in cases.items() if "epochs" not in case[0]}


def test_every_pass_of_the_official_code(vit, l2p, cases, check_step):
    assert passes(cases)
    images, labels = l2p[1]["images"], l2p[1]["labels"]
    for name, (facts, expected) in passes(cases).items():
        method = method_of(vit, facts, expected)
        first, last = facts["classes_in_use"]
        method.start_task(facts["task"], facts["tasks"], range(first, last))
        logits = method(images)
        torch.testing.assert_close(logits, expected["train/logits_unmasked"], atol=5e-5, rtol=0, msg=name)
        masked = expected["train/logits_masked"]
        torch.testing.assert_close(method.for_task(logits)[:, : masked.shape[1]], masked, atol=5e-5, rtol=0)
        targets = labels + 5 * facts["labels"].endswith("+ 5")
        penalty = method.ortho * method.penalty()
        torch.testing.assert_close(penalty, expected["train/prompt_loss"].view(()), atol=1e-5, rtol=0)
        gradients = {f"grad/{key}": value for key, value in in_our_layout(part(expected, "train/grad/")).items()}
        check_step(method, images, targets, {"loss": expected["train/loss"], **gradients})
        method.eval()
        torch.testing.assert_close(method.features(images), expected["eval/pre_logits"], atol=5e-5, rtol=0)
        torch.testing.assert_close(method(images), expected["eval/logits_unmasked"], atol=5e-5, rtol=0)


def test_two_tasks_of_the_official_learner(vit, l2p, cases):
    """Adam at 0.001, new for each task; the components of the second are drawn and orthogonal to the first's."""
    runs = [case for case in cases.values() if "epochs" in case[0]]
    assert runs
    for facts, expected in runs:
        method = method_of(vit, facts, part(expected, "init/"))
        share, losses = int(facts["prompt_param"][0]) // facts["tasks"], []
        for task in range(2):
            method.start_task(task, facts["tasks"], range(5 * task, 5 * task + 5))
            if task:
                check_start(method, in_our_layout(part(expected, "task1_start/")), share)
                method.load_learned_state(part(expected, "task1_start/"))
            losses += train(method, facts, task, l2p[1])
            after = part(expected, f"after_task{task}/")
            for name, value in in_our_layout(after).items() if "prompt.e_p_0" in after else ():
                torch.testing.assert_close(method.learned_state()[name], value, atol=1e-4, rtol=0, msg=name)
            logits, wanted = method(l2p[1]["images"]), expected[f"after_task{task}/eval_logits"]
            torch.testing.assert_close(logits[:, : wanted.shape[1]], wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.stack(losses), expected["loss_per_step"], atol=1e-4, rtol=0)


def check_start(method, expected, share):
    """Trained components are as they were, later ones zero; the drawn ones have the lengths and angles of theirs."""
    for name in THEIRS:
        found, theirs = (state[name].flatten(2) for state in (method.learned_state(), expected))
        torch.testing.assert_close(found[:, :share], theirs[:, :share], atol=1e-4, rtol=0)
        assert not found[:, 2 * share :].any() and not theirs[:, 2 * share :].any()
        for rows in (found[:, : 2 * share], theirs[:, : 2 * share]):
            new = rows[:, share:]
            angles = new @ F.normalize(rows, dim=-1).mT
            torch.testing.assert_close(new.norm(dim=-1), torch.ones(new.shape[:2]))
            assert (angles[..., :share].abs() < 2e-3).all()
            torch.testing.assert_close(
                angles[..., share:], torch.eye(share).expand(len(rows), -1, -1), atol=2e-3, rtol=0
            )


def train(method, facts, task, tensors):
    rates = facts["lr_per_step"]
    per_epoch = learning_rates("coda_cosine", rates[0], facts["epochs"])
    images, labels = (tensors[f"engine/train_{what}"][2 * task : 2 * task + 2] for what in ("images", "labels"))
    optimizer = build_optimizer("adam", method.named_parameters(), rates[0], 0.0)
    losses = []
    for epoch in range(facts["epochs"]):
        assert [per_epoch[epoch]] * 2 == rates[2 * epoch : 2 * epoch + 2]
        for batch in range(2):
            set_rate(optimizer, per_epoch[epoch])
            loss = method.loss(images[batch], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return losses


@pytest.fixture(scope="module")
def rivals(golden_cases):
    """DualPrompt and L2P as CODA-Prompt's repository has them."""
    return golden_cases("vpt/coda_repo_rivals")


def rival_of(vit, facts, state):
    """Parameters: size of the pools, rows of an E-prompt, rows of a G-prompt; of L2P -1 for block 0, else 0 to 4."""
    size, length, last = facts["prompt_param"]
    options = {"g_length": last}
    if facts["method"] == "L2P":
        options = {"g_length": 0, "top_k": 5, "e_layers": (0,) if last < 0 else (0, 1, 2, 3)}
    method = vpt.build("layer_pools", vit, CLASSES, size=size, e_length=length, **options)
    method.load_learned_state({name: value for name, value in state.items() if name.startswith(("prompt.", "last."))})
    return method.train()


def named(method, tensors):
    """The official tensors of every block under our names."""
    theirs = {
        "g_prompt": ("g_p", method.g_layers),
        "e_prompt": ("e_p", method.e_layers),
        "e_key": ("e_k", method.e_layers),
    }
    found = {name: [f"prompt.{key}_{layer}" for layer in layers] for name, (key, layers) in theirs.items() if layers}
    found = {ours: torch.stack([tensors[name] for name in names]) for ours, names in found.items()}
    return found | {f"head.{name}": tensors[f"last.{name}"] for name in ("weight", "bias")}


def test_every_pass_of_the_rivals(vit, l2p, rivals):
    assert passes(rivals)
    images, labels = l2p[1]["images"], l2p[1]["labels"]
    for name, (facts, expected) in passes(rivals).items():
        method = rival_of(vit, facts, expected)
        first, last = facts["classes_in_use"]
        method.start_task(facts["task"], facts["tasks"], range(first, last))
        logits, masked = method(images), expected["train/logits_masked"]
        torch.testing.assert_close(logits, expected["train/logits_unmasked"], atol=5e-5, rtol=0, msg=name)
        torch.testing.assert_close(method.for_task(logits)[:, : masked.shape[1]], masked, atol=5e-5, rtol=0)
        loss = method.loss(images, labels + 5 * facts["labels"].endswith("+ 5"))
        torch.testing.assert_close(loss, expected["train/loss"], atol=1e-5, rtol=1e-6)
        loss.backward()
        for key, value in named(method, part(expected, "train/grad/")).items():
            found = dict(method.named_parameters())[key].grad
            torch.testing.assert_close(found, value, atol=2e-5, rtol=1e-4, msg=f"{name} {key}")
        method.eval()
        features = method.features(images, method.choices(images))
        torch.testing.assert_close(features, expected["eval/pre_logits"], atol=5e-5, rtol=0)
        torch.testing.assert_close(method(images), expected["eval/logits_unmasked"], atol=5e-5, rtol=0)


def test_two_tasks_of_the_rivals(vit, l2p, rivals):
    for facts, expected in (case for case in rivals.values() if "epochs" in case[0]):
        method, losses = rival_of(vit, facts, part(expected, "init/")), []
        for task in range(2):
            method.start_task(task, facts["tasks"], range(5 * task, 5 * task + 5))
            losses += train(method, facts, task, l2p[1])
            for name, value in named(method, part(expected, f"after_task{task}/")).items():
                torch.testing.assert_close(method.learned_state()[name], value, atol=1e-4, rtol=0, msg=name)
            wanted = expected[f"after_task{task}/eval_logits"]
            found = method.eval()(l2p[1]["images"])[:, : wanted.shape[1]]
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
            method.train()
        torch.testing.assert_close(torch.stack(losses), expected["loss_per_step"], atol=1e-4, rtol=1e-5)


def test_bad_options_of_the_rivals(vit):
    for options, message in (
        (dict(e_length=3), "e_length is 3, g_length 6; take even lengths"),
        (dict(top_k=11), "size is 10, top_k 11"),
        (dict(e_layers=(1,)), "block 1 is in g_layers and in e_layers"),
        (dict(init="cora"), "did you mean 'coda'"),
    ):
        with pytest.raises(InputError, match=message):
            vpt.build("layer_pools", vit, CLASSES, **options)
    with pytest.raises(InputError, match="size is 10, but the stream has 11 tasks"):
        vpt.build("layer_pools", vit, CLASSES).start_task(0, 11)
    vpt.build("layer_pools", vit, CLASSES, top_k=5).start_task(0, 11)
