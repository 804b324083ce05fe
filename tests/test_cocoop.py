"""CoCoOp against the official numbers, and image by image against all images at once."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from official import near_each, steps

import coop
from coop.parts import per_image
from promptvision.backbones import load_clip
from promptvision.backbones.compute import Compute
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.errors import InputError

NAMES = ["cat", "golden_retriever", "hen-of-the-woods", "Washington D.C.", "snapdragon"]


@pytest.fixture(scope="module")
def clips(golden):
    return {name: load_clip(golden.root / f"coop/{name}.safetensors") for name in ("clip_vit_tiny", "clip_rn_tiny")}


@pytest.fixture(scope="module")
def inputs(golden):
    return golden("coop/inputs")


@pytest.fixture(scope="module")
def double(golden):
    return load_clip(golden.root / "coop/clip_vit_tiny.safetensors").double()


def learned_cocoop(clip, inputs, settings, expected):
    options = {name: settings[name] for name in ("n_ctx", "ctx_init")}
    method = coop.build("cocoop", clip, inputs[0]["classnames"], **options)
    if settings["ctx_init"]:
        assert torch.equal(method.ctx, expected["param.ctx"])
    names = [name for name in expected if name.startswith("param.")]
    method.load_learned_state({name.removeprefix("param."): expected[name] for name in names})
    return method


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.golden("coop/cocoop/*")
def test_logits_loss_and_gradients(case, way, golden, clips, inputs, computed):
    settings, expected = golden(case)
    method = learned_cocoop(computed(clips[settings["backbone"]], way=way), inputs, settings, expected)
    images, labels = inputs[1]["images"], inputs[1]["labels"]
    with torch.no_grad():
        torch.testing.assert_close(method.predictor()(images), expected["logits"], atol=1e-4, rtol=0)
        unit = F.normalize(method.backbone.image(images), dim=-1)
        torch.testing.assert_close(method.meta_net(unit), expected["meta_net_output"], atol=1e-5, rtol=1e-4)
    for loss, found in steps(method, images, labels):
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        assert set(found) == set(method.learned())
        near_each(found, expected, "grad.", 1e-4)


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.golden("coop/cocoop/*")
def test_trajectories(case, batch, way, golden, clips, inputs, computed):
    settings, expected = golden(case)
    method = learned_cocoop(computed(clips[settings["backbone"]], way=way), inputs, settings, expected)
    images, labels = inputs[1]["batch_images"], inputs[1]["batch_labels"]
    if batch == 1:  # three single images, the same in every epoch
        images, labels = images.flatten(0, 1)[[0, 5, 10], None], labels.flatten()[[0, 5, 10], None]
    rates = learning_rates("cosine", 0.002, 4, warmup_epochs=1)
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.002, 5e-4, 0.9, method.no_decay)
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = rates[step // 3]
        assert rates[step // 3] == pytest.approx(expected[f"traj_bs{batch}.lr"][step].item())
        loss = method.loss(images[step % 3], labels[step % 3])
        assert loss.item() == pytest.approx(expected[f"traj_bs{batch}.loss"][step].item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, tensor in method.learned_state().items():
        torch.testing.assert_close(tensor, expected[f"traj_bs{batch}.final.{name}"], rtol=1e-3, atol=1e-4)


def gradients(method, images, labels, together=False):
    """(loss, gradient of every learned tensor); `together` is the plain loss of all images at once."""
    loss = F.cross_entropy(method(images), labels) if together else method.loss(images, labels)
    names = method.learned()
    return loss, dict(zip(names, torch.autograd.grad(loss, [method.get_parameter(n) for n in names]), strict=True))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_image_by_image_is_exact(data, double, inputs, computed):
    """Against the plain way with all images at once, whatever the numbers of images, classes, contexts and parts."""
    batch, n_ctx = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    classes = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    parts = dict(images_at_once=data.draw(st.integers(1, 6)), chunk=data.draw(st.integers(0, 4)))
    images, labels = inputs[1]["images"][:batch].double(), inputs[1]["labels"][:batch] % len(classes)
    way = data.draw(st.sampled_from(["plain", "fast"]))
    method = coop.build("cocoop", computed(double, way=way, **parts), classes, n_ctx=n_ctx).double()
    method.ctx.data.mul_(50)  # contexts that matter
    together = computed(double, way="plain", images_at_once=batch)
    whole = coop.build("cocoop", together, classes, n_ctx=n_ctx).double()
    whole.load_learned_state(method.learned_state())
    loss, found = gradients(method, images, labels)
    expected_loss, expected = gradients(whole, images, labels, together=True)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for name, gradient in found.items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], atol=1e-12 * max(largest, 1e-3), rtol=1e-12)
    with torch.no_grad():
        again = method.loss(images, labels)
    torch.testing.assert_close(again, loss.detach(), rtol=1e-12, atol=0)
    assert not again.requires_grad


def test_the_gradient_follows_what_comes_after_the_loss(double, inputs):
    images, labels = inputs[1]["images"][:3].double(), inputs[1]["labels"][:3] % 5
    method = coop.build("cocoop", double, NAMES).double()
    _, once = gradients(method, images, labels)
    (3 * method.loss(images, labels) + method.loss(images, labels)).backward()
    torch.testing.assert_close(method.ctx.grad, 4 * once["ctx"])


def most_kept(method, images, labels):
    """The most bytes, weights apart, that backward needed at any one time."""
    kept, most = 0, 0
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}

    class Kept:
        pass

    def forget(size):
        nonlocal kept
        kept -= size

    def keep(tensor):
        nonlocal kept, most
        size = 0 if tensor.untyped_storage().data_ptr() in weights else tensor.nbytes
        box = Kept()
        box.tensor = tensor
        kept += size
        most = max(most, kept)
        weakref.finalize(box, forget, size)
        return box

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.tensor):
        method.loss(images, labels).backward()
    return most


def test_memory_does_not_grow_with_the_batch(clips, inputs, computed):
    method = coop.build("cocoop", computed(clips["clip_vit_tiny"]), NAMES)
    features = clips["clip_vit_tiny"].image(inputs[1]["images"])
    features, labels = features.repeat(4, 1), inputs[1]["labels"].repeat(4) % 5
    one, many = most_kept(method, features[:1], labels[:1]), most_kept(method, features, labels)
    assert one > 100_000 and many < 1.2 * one
    method.backbone.compute = Compute(images_at_once=24)
    assert most_kept(method, features, labels) > 10 * one


def test_evaluation_encodes_few_images_at_once(clips, inputs, computed):
    method = coop.build("cocoop", computed(clips["clip_vit_tiny"], images_at_once=2), NAMES)
    seen = []
    method.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[1])))
    with torch.no_grad():
        assert method.predictor()(inputs[1]["images"][:5]).shape == (5, 5)
    assert seen == [2, 2, 1]


def autocast_gradient(method, images, labels, dtype, factor=1.0):
    """The gradient of ctx under autocast, as a loss scaled by `factor` gives it."""
    with torch.autocast("cpu", dtype):
        loss = method.loss(images, labels)
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss * factor, method.ctx)
    return gradient / factor


@pytest.mark.parametrize("temperature", [1e-4, 1.0, 100.0, 3000.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_gradients_neither_vanish_nor_overflow(temperature, dtype, tolerance, clips, inputs, golden):
    """At 1e-4 unscaled fp16 gradients vanish, at 3000 scaled ones overflow."""
    clip, images, labels = clips["clip_vit_tiny"], inputs[1]["images"], inputs[1]["labels"]
    settings, expected = golden("coop/cocoop/random_ctx4")
    method = learned_cocoop(clip, inputs, settings, expected)
    was = clip.logit_scale.clone()
    try:
        clip.logit_scale.fill_(math.log(temperature))
        wanted = gradients(method, images, labels)[1]["ctx"]
        found = autocast_gradient(method, images, labels, dtype, factor=1024.0)
    finally:
        clip.logit_scale.copy_(was)
    torch.testing.assert_close(found, wanted, atol=tolerance * wanted.abs().max().item(), rtol=0)


def test_a_loss_that_is_not_finite_stays_so(clips, inputs):
    method = coop.build("cocoop", clips["clip_vit_tiny"], NAMES)
    method.ctx.data[0, 0] = math.nan
    loss = method.loss(inputs[1]["images"][:2], inputs[1]["labels"][:2] % 5)
    assert loss.isnan()


def test_scales_are_powers_of_two_and_end_without_one():
    assert per_image.SCALES[-1] == 1.0
    assert all(math.log2(scale).is_integer() for scale in per_image.SCALES)
    assert list(per_image.SCALES) == sorted(per_image.SCALES, reverse=True)


@pytest.mark.parametrize("backbone", ["clip_vit_tiny", "clip_rn_tiny"])
def test_new_classes_and_the_shape_of_the_meta_net(backbone, clips, inputs):
    clip, images = clips[backbone], inputs[1]["images"]
    method = coop.build("cocoop", clip, ["cat", "dog"], n_ctx=3)
    assert {name: tuple(tensor.shape) for name, tensor in method.learned_state().items()} == {
        "ctx": (3, clip.text.width),
        "meta_net.linear1.weight": (4, 64),
        "meta_net.linear1.bias": (4,),
        "meta_net.linear2.weight": (clip.text.width, 4),
        "meta_net.linear2.bias": (clip.text.width,),
    }
    other = method.for_classes(["dog", "bird", "cat"])
    torch.testing.assert_close(other(images)[:, [2, 0]], method(images))
    torch.testing.assert_close(other(clip.image(images)), other(images))


def test_bad_arguments(clips):
    with pytest.raises(InputError, match="n_ctx is 0"):
        coop.build("cocoop", clips["clip_vit_tiny"], NAMES, n_ctx=0)
