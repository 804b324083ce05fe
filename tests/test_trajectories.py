"""Training step by step as the official Trainer, its optimisers and its schedules did."""

import torch

import vpt
from promptvision.backbones import load_vit
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate

CLASSES = [f"class {i}" for i in range(7)]
OPTIMIZERS = {"sgd": "sgd", "adam": "adam", "adamw": "vpt_adamw"}
BATCH = 6


def method_of(golden, settings, initial, official_type):
    name, options = official_type(settings["transfer_type"])
    if name in ("prompt", "prompt_ablations"):
        prompt = settings["prompt_cfg"]
        options = {**options, "num_tokens": prompt["NUM_TOKENS"], "deep": prompt["DEEP"], "project": prompt["PROJECT"]}
    elif name == "adapter":
        options = {"reduction": 64 // len(initial["blocks.0.adapter_downsample.weight"])}
    method = vpt.build(name, load_vit(golden.root / "vpt/backbone.safetensors"), CLASSES, **options)
    method.load_learned_state({**method.learned_state(), **initial})
    return method


def test_every_run_of_the_official_trainer(golden, official_type):
    settings, tensors = golden("vpt/train_trajectory")
    assert len(settings["runs"]) >= 8
    for run, facts in settings["runs"].items():
        own = {key.removeprefix(f"{run}/"): value for key, value in tensors.items() if key.startswith(f"{run}/")}
        initial = {key.removeprefix("init/"): value for key, value in own.items() if key.startswith("init/")}
        method = method_of(golden, facts, initial, official_type).train()
        for step, loss in enumerate(losses(method, facts["solver"], tensors, own), start=1):
            torch.testing.assert_close(loss, own["loss"][step - 1], atol=1e-4, rtol=0, msg=f"{run} step {step}")
            state = method.learned_state()
            for key in (key for key in own if key.startswith(f"after_step{step}/")):
                value = state[key.partition("/")[2]]
                torch.testing.assert_close(value, own[key], atol=1e-4, rtol=0, msg=f"{run} {key}")


def losses(method, solver, tensors, own):
    """Train on the stored batches in turn; gives each step's loss, after its update."""
    lr, epochs, batches = solver["BASE_LR"], solver["TOTAL_EPOCH"], len(tensors["train_labels"]) // BATCH
    rates = learning_rates(f"vpt_{solver['SCHEDULER']}", lr, epochs, warmup_epochs=solver["WARMUP_EPOCH"])
    optimizer = build_optimizer(
        OPTIMIZERS[solver["OPTIMIZER"]],
        method.named_parameters(),
        lr,
        solver["WEIGHT_DECAY"],
        solver["MOMENTUM"],
        method.no_decay,
        bias_multiplier=solver["BIAS_MULTIPLIER"],
    )
    for step in range(len(own["loss"])):
        set_rate(optimizer, rates[step // batches])
        rows = slice(step % batches * BATCH, (step % batches + 1) * BATCH)
        loss = method.loss(tensors["train_images"][rows], tensors["train_labels"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach()


def test_the_official_adapter_never_learns_and_ours_does(golden):
    _, tensors = golden("vpt/train_trajectory")
    images, labels = tensors["train_images"], tensors["train_labels"]
    for init, learns in (("published", False), ("identity", True)):
        torch.manual_seed(0)
        method = vpt.build("adapter", load_vit(golden.root / "vpt/backbone.safetensors"), CLASSES, init=init)
        optimizer = build_optimizer("sgd", method.named_parameters(), 0.05, 0.0)
        for _ in range(2):
            optimizer.zero_grad()
            method.loss(images, labels).backward()
            optimizer.step()
        gradient = method.blocks[0].adapter_downsample.weight.grad
        assert bool(gradient.any()) == learns
        assert bool(method.blocks[0].adapter_upsample.weight.any()) == learns
