"""Visual prompts on CLIP against the numbers of the official implementation: values, gradients, trajectories."""

import pytest
import torch
from official import near_each, steps

import coop
from promptvision.backbones import load_clip
from promptvision.backbones.compute import Compute
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.errors import InputError

NAMES = {"N_CTX_VISION": "n_ctx", "PROMPT_DEPTH_VISION": "depth"}


def learned(golden, settings, expected, way):
    clip = load_clip(golden.root / f"coop/{settings['backbone']}.safetensors", compute=Compute(way))
    options = {ours: settings["settings"][theirs] for theirs, ours in NAMES.items()}
    method = coop.build("vpt", clip, settings["classnames"], **options)
    params = {key.removeprefix("param."): value for key, value in expected.items() if key.startswith("param.")}
    method.load_learned_state(params)
    assert set(method.learned()) == set(params)
    return method


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/vpt/*")
def test_logits_loss_and_gradients(case, way, golden, coop_inputs):
    settings, expected = golden(case)
    method = learned(golden, settings, expected, way)
    torch.testing.assert_close(method(coop_inputs["images"]), expected["logits"], atol=1e-4, rtol=0)
    for loss, found in steps(method, coop_inputs["images"], coop_inputs["labels"]):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        assert set(found) == set(method.learned())
        near_each(found, expected, "grad.", 1e-4)


@pytest.mark.golden("coop/vpt/*")
def test_trajectory(case, golden, coop_inputs):
    settings, expected = golden(case)
    method, facts = learned(golden, settings, expected, "auto"), settings["trajectory"]
    per_epoch = facts["batches_per_epoch"]
    rates = learning_rates(
        "cosine", facts["lr"], facts["epochs"], warmup_epochs=1, warmup_type="constant", warmup_lr=1e-5,
        warmup_recount=True,
    )  # fmt: skip
    named = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    optimizer = build_optimizer("sgd", named, facts["lr"], 5e-4, 0.9)
    for step, (loss, rate) in enumerate(zip(expected["traj.loss"], expected["traj.lr"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rates[step // per_epoch]
        assert rates[step // per_epoch] == pytest.approx(rate.item())
        found = method.loss(coop_inputs["batch_images"][step % 3], coop_inputs["batch_labels"][step % 3])
        torch.testing.assert_close(found.double(), loss.double(), rtol=1e-3, atol=1e-5)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    for name, value in method.learned_state().items():
        torch.testing.assert_close(value, expected[f"traj.final.{name}"], rtol=1e-3, atol=1e-5)


def test_prompts_start_small_and_leave_clip_alone():
    torch.manual_seed(0)
    clip = load_clip("embedded")
    method = coop.build("vpt", clip, ["a", "b"], n_ctx=30, depth=2)
    for prompts in method.image_encoder.parameters():
        assert prompts.shape == (30, clip.image.width) and prompts.std().item() == pytest.approx(0.02, rel=0.1)
    method.loss(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is None for parameter in clip.parameters())
    assert [len(method.learned()), list(method.learned_state())] == [
        2, ["image_encoder.VPT", "image_encoder.transformer.resblocks.1.VPT_shallow"],
    ]  # fmt: skip


def test_other_classes_are_named_by_their_texts():
    images = torch.randn(2, 3, 32, 32)
    method = coop.build("vpt", load_clip("embedded"), ["cat", "dog"], depth=2, template="a drawing of a {}.")
    both = method.for_classes(["dog", "cat", "old_house"])
    torch.testing.assert_close(both(images)[:, [1, 0]], method(images))
    expected = coop.build("zero_shot", load_clip("embedded"), ["old house"], templates=["a drawing of a {}."])
    torch.testing.assert_close(both.features[2:], expected.features)


def test_refusals(golden):
    clip = load_clip("embedded")
    with pytest.raises(InputError, match="depth is 9; backbone 'embedded' has"):
        coop.build("vpt", clip, ["a"], depth=9)
    with pytest.raises(InputError, match="depth is 0"):
        coop.build("vpt", clip, ["a"], depth=0)
    with pytest.raises(InputError, match="n_ctx is 0"):
        coop.build("vpt", clip, ["a"], n_ctx=0)
    with pytest.raises(InputError, match="has no {} where the class name goes"):
        coop.build("vpt", clip, ["a"], template="a photo")
    with pytest.raises(InputError, match="'.*clip_rn_tiny.*' has no tokens to put prompts among"):
        coop.build("vpt", load_clip(golden.root / "coop/clip_rn_tiny.safetensors"), ["a"])
