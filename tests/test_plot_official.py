"""PLOT against the numbers of its official code: plans, values, gradients, training."""

import pytest
import torch
import torch.nn.functional as F
from official import near_each, steps

import coop
from coop.plot import transport_plans
from promptvision.backbones import load_clip
from promptvision.engine.optim import build_optimizer, learning_rates


def learned(golden, settings, expected):
    clip = load_clip(golden.root / f"coop/{settings['backbone']}.safetensors")
    options = dict(n_prompts=settings["N"], n_ctx=settings["n_ctx"], entropy=settings["eps"])
    pooled = settings["dataset"] == "ImageNet"
    method = coop.build("plot", clip, settings["classnames"], **options, stop="batch", pooled=pooled)
    method.load_learned_state({"ctx": expected["param.ctx"]})
    return method


@pytest.mark.golden("coop/plot/*")
def test_plans_alone_and_as_one_batch(case, golden):
    settings, expected = golden(case)
    cost, eps = expected["sinkhorn.cost"], settings["eps"]
    each, together = (transport_plans(cost, eps, stop) for stop in ("each", "batch"))
    torch.testing.assert_close(each, expected["sinkhorn.plan_each"], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(together, expected["sinkhorn.plan_together"], atol=1e-7, rtol=1e-4)
    assert (each - together).abs().max() > 1e-6, "the two rules differ on these costs"


@pytest.mark.golden("coop/plot/*")
def test_features_plans_logits_loss_and_gradient(case, golden, coop_inputs):
    settings, expected = golden(case)
    method = learned(golden, settings, expected)
    images, texts = method.image_features(coop_inputs["images"]), method.text_features()
    torch.testing.assert_close(images, expected["image_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(texts, expected["text_features"], atol=1e-4, rtol=0)
    cosines = torch.einsum("bme,nce->bcmn", F.normalize(images[:, 1:], dim=-1), F.normalize(texts, dim=-1))
    plans = transport_plans(1 - cosines, settings["eps"], "batch")
    torch.testing.assert_close(plans, expected["plan"], atol=1e-5, rtol=0)
    torch.testing.assert_close(method(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(method.predictor()(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    for loss, found in steps(method, coop_inputs["images"], coop_inputs["labels"]):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        assert set(found) == {"ctx"}
        near_each(found, expected, "grad.", 1e-4)


@pytest.mark.golden("coop/plot/*")
def test_trajectory(case, golden, coop_inputs):
    settings, expected = golden(case)
    method, facts = learned(golden, settings, expected), settings["trajectory"]
    rates = learning_rates("cosine", 0.002, facts["epochs"], warmup_epochs=1)
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.002, 5e-4, 0.9)
    for step, (loss, rate) in enumerate(zip(expected["traj.loss"], expected["traj.lr"], strict=True)):
        optimizer.param_groups[0]["lr"] = rates[step // facts["batches_per_epoch"]]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate.item())
        found = method.loss(coop_inputs["batch_images"][step % 3], coop_inputs["batch_labels"][step % 3])
        assert found.item() == pytest.approx(loss.item(), rel=1e-3)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    torch.testing.assert_close(method.ctx.data, expected["traj.final.ctx"], rtol=1e-3, atol=1e-5)


def test_logits_follow_the_rule_that_stops_the_plans():
    """Places and prompts that point in all directions of a plane: their plans need different numbers of rounds."""
    clip, generator = load_clip("embedded"), torch.Generator().manual_seed(0)
    places, prompts = (torch.randn(*shape, 2, generator=generator) for shape in ((6, 10), (3, 2)))
    found = {}
    for stop in ("each", "batch"):
        found[stop] = coop.build("plot", clip, ["a", "b"], n_prompts=3, n_ctx=2, stop=stop).logits(places, prompts)
        units = F.normalize(places[:, 1:], dim=-1), F.normalize(prompts, dim=-1)
        cosines = torch.einsum("bme,nce->bcmn", *units)
        wanted = clip.logit_scale.exp() * (transport_plans(1 - cosines, 0.1, stop) * cosines).sum(dim=(-2, -1))
        assert torch.equal(found[stop], wanted)
    assert not torch.equal(found["each"], found["batch"])


def test_plans_that_stop_with_their_batch_make_no_mean_over_images():
    clip = load_clip("embedded")
    assert coop.build("plot", clip, ["a", "b"]).loss_is_mean
    assert not coop.build("plot", clip, ["a", "b"], stop="batch").loss_is_mean
