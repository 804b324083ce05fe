"""TaskRes, CLIP-Adapter and Tip-Adapter(-F) against the numbers of the official codes."""

import re

import pytest
import torch
from official import near_each, steps

import coop
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates, set_rate


@pytest.fixture(scope="module")
def clips(golden):
    return {name: load_clip(golden.root / f"coop/{name}.safetensors") for name in ("clip_vit_tiny", "clip_rn_tiny")}


def check_step(method, images, labels, expected):
    """Compare logits, loss and the gradient of every official parameter."""
    torch.testing.assert_close(method(images), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(images), expected["logits"], atol=1e-4, rtol=0)
    gradients = {name.removeprefix("grad."): value for name, value in expected.items() if name.startswith("grad.")}
    assert gradients.keys() == {name for name, tensor in method.named_parameters() if tensor.requires_grad}
    for loss, found in steps(method, images, labels):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        assert found.keys() == gradients.keys()
        near_each(found, expected, "grad.", 1e-4)


def train(method, batches, settings, expected, per_step=False, end_epoch=None):
    """Take the official steps; every rate and loss must agree on the way, and the learned tensors at the end."""
    numbers = dict(re.findall(r"(lr|momentum|eps|weight_decay) ([\d.e-]+)", settings["trajectory"]["optimizer"]))
    numbers = {name: float(number) for name, number in numbers.items()}
    name, lr, decay = settings["trajectory"]["optimizer"].split()[0].lower(), numbers["lr"], numbers["weight_decay"]
    each = learning_rates("cosine", lr, 4, warmup_epochs=1)
    rates = learning_rates("cosine", lr, 12) if per_step else [rate for rate in each for _ in range(3)]
    optimizer = build_optimizer(name, method.named_parameters(), lr, decay, eps=numbers.get("eps", 1e-8))
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(expected["traj.lr"][step].item())
        set_rate(optimizer, rate)
        loss = method.loss(*batches[step % 3])
        assert loss.item() == pytest.approx(expected["traj.loss"][step].item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if end_epoch and step % 3 == 2:
            end_epoch()
    assert len(rates) == len(expected["traj.loss"])
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            wanted = expected[f"traj.final.{name}"]
            scale = wanted.abs().max().item()
            torch.testing.assert_close(parameter.data, wanted, atol=1e-3 * scale, rtol=0)


def params(expected):
    """Return the official parameters of a case by their names."""
    return {name.removeprefix("param."): tensor for name, tensor in expected.items() if name.startswith("param.")}


def labelled(coop_inputs):
    return list(zip(coop_inputs["batch_images"], coop_inputs["batch_labels"], strict=True))


@pytest.mark.golden("coop/taskres/*")
def test_task_res(case, golden, clips, coop_inputs):
    settings, expected = golden(case)
    options = dict(templates=settings["templates"], alpha=settings["alpha"])
    method = coop.build("task_res", clips[settings["backbone"]], settings["classnames"], **options)
    torch.testing.assert_close(method.base, expected["base_text_features"], atol=1e-4, rtol=0)
    method.load_learned_state(params(expected))
    check_step(method, coop_inputs["images"], coop_inputs["labels"], expected)
    method = coop.build("task_res", clips[settings["backbone"]], settings["classnames"], **options)
    assert not method.text_feature_residuals.any()
    train(method, labelled(coop_inputs), settings, expected)


@pytest.mark.golden("coop/clipadapter/*")
def test_clip_adapter(case, golden, clips, coop_inputs):
    settings, expected = golden(case)
    options = dict(templates=settings["template"], image_ratio=settings["ratio"], reduction=settings["reduction"])
    method = coop.build("clip_adapter", clips[settings["backbone"]], settings["classnames"], **options)
    method.load_learned_state(params(expected))
    features = method.backbone.image(coop_inputs["images"])
    torch.testing.assert_close(method.fc(features), expected["adapter_output"], atol=1e-4, rtol=0)
    check_step(method, coop_inputs["images"], coop_inputs["labels"], expected)
    train(method, labelled(coop_inputs), settings, expected)


def tip_adapter(name, settings, clips, coop_inputs):
    """Return the method with its cache filled from the batches' images, and the images that decide."""
    options = {key: settings[key] for key in ("templates", "alpha", "beta")}
    options |= {"search": settings["search_scale"], "logit_scale": settings["scale"]}
    names, images = settings["classnames"], coop_inputs["batch_images"].flatten(0, 1)
    kinds = {"as is": images, "flipped left to right": images.flip(-1)}
    views = [(kinds[view], torch.arange(12)) for view in settings["augmented_views"]]
    method = coop.build(name, clips[settings["backbone"]], names, views=len(views), **options)
    method.prepare(views, [])
    return method, torch.cat([coop_inputs["images"], images.flip(-1)])


@pytest.mark.golden("coop/tipadapter/*")
def test_tip_adapter(case, golden, clips, coop_inputs):
    settings, expected = golden(case)
    method, images = tip_adapter("tip_adapter", settings, clips, coop_inputs)
    torch.testing.assert_close(method.features, expected["text_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.keys, expected["param.keys"], atol=1e-4, rtol=0)
    assert torch.equal(method.values, expected["values"])
    zero_shot = method.zero_shot(method.backbone.image(coop_inputs["images"]))
    torch.testing.assert_close(zero_shot, expected["zero_shot_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    method.finish([], [(images, expected["val_labels"])])
    assert {"alpha": method.alpha.item(), "beta": method.beta.item()} == pytest.approx(settings["found"]["tip_adapter"])


@pytest.mark.golden("coop/tipadapter/*")
def test_tip_adapter_f(case, golden, clips, coop_inputs):
    """Values and gradients, training, and the search with the keys of the epoch that is best on the test images."""
    settings, expected = golden(case)
    method, images = tip_adapter("tip_adapter_f", settings, clips, coop_inputs)
    check_step(method, coop_inputs["images"], coop_inputs["labels"], expected)
    method, images = tip_adapter("tip_adapter_f", settings, clips, coop_inputs)
    batches, found = list(zip(coop_inputs["batch_images"], torch.arange(12).split(4), strict=True)), []
    features = method.backbone.image(images).detach()

    def end_epoch():
        right = (method(features).argmax(dim=1) == expected["val_labels"]).sum().item()
        found.append((right, method.keys.detach().clone()))

    train(method, batches, settings, expected, per_step=True, end_epoch=end_epoch)
    best = max(range(4), key=lambda epoch: found[epoch][0])
    assert [best] == settings["best_epoch_on_val"]
    torch.testing.assert_close(found[best][1], expected["traj.best.keys"], atol=1e-3, rtol=0)
    method.keys.data = expected["traj.best.keys"]
    method.finish([], [(images, expected["val_labels"])])
    wanted = {key: settings["found"]["tip_adapter_f"][key] for key in ("alpha", "beta")}
    assert {"alpha": method.alpha.item(), "beta": method.beta.item()} == pytest.approx(wanted)
