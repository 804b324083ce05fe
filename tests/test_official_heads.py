"""TaskRes, CLIP-Adapter and Tip-Adapter(-F) against the numbers of the official codes."""

import re

import pytest
import torch

import coop
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate


@pytest.fixture(scope="module")
def clips(golden):
    return {name: load_clip(golden.root / f"coop/{name}.safetensors") for name in ("clip_vit_tiny", "clip_rn_tiny")}


@pytest.fixture(scope="module")
def inputs(golden):
    return golden("coop/inputs")[1]


def check_step(method, images, labels, expected):
    """Compare logits, loss and the gradient of every official parameter."""
    torch.testing.assert_close(method(images), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(images), expected["logits"], atol=1e-4, rtol=0)
    loss = method.loss(images, labels)
    loss.backward()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
    gradients = {name.removeprefix("grad."): value for name, value in expected.items() if name.startswith("grad.")}
    assert gradients.keys() == {name for name, tensor in method.named_parameters() if tensor.requires_grad}
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(method.get_parameter(name).grad, gradient, atol=1e-4 * scale, rtol=0)


def train(method, batches, settings, expected, rates=None):
    """Take the official steps; every rate and loss must agree on the way, and the learned tensors at the end."""
    numbers = dict(re.findall(r"(lr|momentum|eps|weight_decay) ([\d.e-]+)", settings["trajectory"]["optimizer"]))
    numbers = {name: float(number) for name, number in numbers.items()}
    name, lr, decay = settings["trajectory"]["optimizer"].split()[0].lower(), numbers["lr"], numbers["weight_decay"]
    each = learning_rates("cosine", lr, 4, warmup_epochs=1)
    rates = rates(lr) if rates else [rate for rate in each for _ in range(3)]
    optimizer = build_optimizer(name, method.named_parameters(), lr, decay, eps=numbers.get("eps", 1e-8))
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(expected["traj.lr"][step].item())
        set_rate(optimizer, rate)
        loss = method.loss(*batches[step % 3])
        assert loss.item() == pytest.approx(expected["traj.loss"][step].item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(rates) == len(expected["traj.loss"])
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            wanted = expected[f"traj.final.{name}"]
            scale = wanted.abs().max().item()
            torch.testing.assert_close(parameter.data, wanted, atol=1e-3 * scale, rtol=0)


def params(expected):
    """Return the official parameters of a case by their names."""
    return {name.removeprefix("param."): tensor for name, tensor in expected.items() if name.startswith("param.")}


def labelled(inputs):
    return list(zip(inputs["batch_images"], inputs["batch_labels"], strict=True))


@pytest.mark.golden("coop/taskres/*")
def test_task_res(case, golden, clips, inputs):
    settings, expected = golden(case)
    options = dict(templates=settings["templates"], alpha=settings["alpha"])
    method = coop.build("task_res", clips[settings["backbone"]], settings["classnames"], **options)
    torch.testing.assert_close(method.base, expected["base_text_features"], atol=1e-4, rtol=0)
    method.load_learned_state(params(expected))
    check_step(method, inputs["images"], inputs["labels"], expected)
    method = coop.build("task_res", clips[settings["backbone"]], settings["classnames"], **options)
    assert not method.text_feature_residuals.any()
    train(method, labelled(inputs), settings, expected)


@pytest.mark.golden("coop/clipadapter/*")
def test_clip_adapter(case, golden, clips, inputs):
    settings, expected = golden(case)
    options = dict(templates=settings["template"], image_ratio=settings["ratio"], reduction=settings["reduction"])
    method = coop.build("clip_adapter", clips[settings["backbone"]], settings["classnames"], **options)
    method.load_learned_state(params(expected))
    features = method.backbone.image(inputs["images"])
    torch.testing.assert_close(method.fc(features), expected["adapter_output"], atol=1e-4, rtol=0)
    check_step(method, inputs["images"], inputs["labels"], expected)
    train(method, labelled(inputs), settings, expected)
