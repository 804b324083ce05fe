"""Label smoothing, class weights, and the gradients of several batches per step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from small_run import NAMES, Line, config
from torch import nn

import coop
import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.engine.distributed import check
from promptvision.engine.optim import build_optimizer
from promptvision.engine.step import Step
from promptvision.errors import InputError
from promptvision.experiment.loss import check_loss, class_weights

CPU = torch.device("cpu")
TRAINED = {
    "coop": ("coop", "cocoop", "kg_coop", "maple", "prompt_src", "pro_grad", "plot", "tcp", "task_res", "clip_adapter"),
    "vpt": ("linear", "prompt", "l2p", "dual_prompt", "coda_prompt", "lora"),
}
CASES = [(family, name) for family, names in TRAINED.items() for name in names]


def logits_and_labels(dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(9, 4, generator=generator, dtype=dtype), torch.randint(4, (9,), generator=generator)


@pytest.fixture
def build(golden):
    """`build("coop", "maple")` gives a method in double precision, as it starts."""

    def make(family, name):
        torch.manual_seed(0)
        if family == "vpt":
            return vpt.build(name, load_vit(golden.root / "vpt/backbone.safetensors"), NAMES).double()
        return coop.build(name, load_clip(golden.root / "coop/clip_vit_tiny.safetensors"), NAMES).double()

    return make


@pytest.fixture
def batch(golden):
    """`batch(family, n)` gives n images and labels of a family's golden numbers in double precision."""

    def take(family, n):
        tensors = golden("coop/inputs")[1] if family == "coop" else golden("vpt/inputs")[1]
        images = tensors["images"].double()
        images = torch.cat([images, images.flip(-1), images.flip(-2)])[:n]
        return images, torch.arange(n) % 3

    return take


# the loss


def test_smoothing_and_weights_are_those_of_torch():
    method, (logits, labels) = Line(), logits_and_labels()
    assert torch.equal(method.cross_entropy(logits, labels), F.cross_entropy(logits, labels))
    method.label_smoothing = 0.2
    smooth = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(method.cross_entropy(logits, labels), smooth.mean())
    method.class_weights = weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    each = method.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(each, smooth * weights.double()[labels])
    torch.testing.assert_close(method.cross_entropy(logits, labels), each.mean())


def test_smoothing_spreads_over_the_classes_of_the_task_alone():
    method, (logits, _) = Line(), logits_and_labels()
    logits.requires_grad_()
    labels = torch.tensor([3, 1, 3, 1, 1, 3, 3, 1, 3])
    method.start_task(0, 2, [3, 1])
    method.label_smoothing, method.class_weights = 0.1, torch.tensor([9.0, 1.0, 9.0, 0.5])
    found = method.cross_entropy(logits, labels)
    places = (labels == 1).long()
    each = F.cross_entropy(logits[:, [3, 1]], places, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(found, (each * torch.tensor([0.5, 1.0], dtype=torch.double)[places]).mean())
    found.backward()
    assert logits.grad.isfinite().all() and not logits.grad[:, [0, 2]].any()


@pytest.mark.parametrize(("kind", "power"), [("inverse", 1.0), ("inverse_sqrt", 0.5)])
def test_class_weights_have_mean_1_over_images(kind, power):
    labels = torch.tensor([0] * 8 + [1] * 2 + [3] * 1)
    weights = class_weights(labels, 4, power)
    assert weights[labels].mean().item() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(4**power) and weights[2] == 0
    if kind == "inverse":
        balanced = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
        assert weights[[0, 1, 3]].tolist() == pytest.approx(balanced.tolist())


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_loss_with_labels_heeds_both(family, name, build, batch):
    method, (images, labels) = build(family, name).train(), batch(family, 4)
    torch.manual_seed(1)
    plain = method.loss(images, labels)
    logits = []
    inner = method.cross_entropy
    method.cross_entropy = lambda logits_, labels_, *how, **more: (
        logits.append((logits_, labels_)) or inner(logits_, labels_, *how, **more)
    )
    torch.manual_seed(1)
    assert torch.equal(method.loss(images, labels), plain)
    near = {"rtol": 1e-8, "atol": 1e-6 if name == "plot" else 1e-10}  # PLOT's logits are float32
    shares = [len(each[1]) / len(labels) for each in logits]
    assert sum(shares) == 1, "the loss holds one cross-entropy of all images"
    expected = sum(
        share * (F.cross_entropy(x, y, label_smoothing=0.3) - F.cross_entropy(x, y))
        for share, (x, y) in zip(shares, logits, strict=True)
    )
    method.label_smoothing = 0.3
    torch.manual_seed(1)
    torch.testing.assert_close(method.loss(images, labels) - plain, expected.detach(), **near)
    method.label_smoothing, method.class_weights = 0.0, torch.full((4,), 2.0)
    torch.manual_seed(1)
    entropy = sum(share * F.cross_entropy(x, y) for share, (x, y) in zip(shares, logits[: len(shares)], strict=True))
    torch.testing.assert_close(method.loss(images, labels) - plain, entropy.detach(), **near)


@pytest.mark.parametrize("name", ["l2p", "dual_prompt", "coda_prompt", "linear"])
def test_a_task_with_smoothing_stays_finite(name, build, batch):
    method, (images, labels) = build("vpt", name).train(), batch("vpt", 4)
    method.start_task(0, 2, [0, 1, 2])
    method.label_smoothing, method.class_weights = 0.1, torch.tensor([1.0, 2.0, 3.0, 0.0])
    loss = method.loss(images, labels)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize(("family", "name"), [("coop", "coop"), ("coop", "cocoop"), ("vpt", "linear")])
def test_a_task_trains_among_its_classes(family, name, build, batch):
    method, (images, _) = build(family, name).eval(), batch(family, 3)
    labels = torch.tensor([2, 0, 2])
    method.start_task(0, 2, [0, 2])
    expected = F.cross_entropy(method(images)[:, [0, 2]], labels // 2)
    torch.testing.assert_close(method.loss(images, labels), expected)


# several batches per step


def gradients(method, groups, clip=0.0):
    """(loss, gradients) of one step on these batches; nothing moves."""
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.0, 0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = Step(method, optimizer, scaler, CPU, "fp32", clip).take(groups)
    return loss, {name: p.grad for name, p in method.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[1] not in ("pro_grad", "plot", "lora")])
def test_batches_of_a_step_are_one_large_batch(family, name, build, batch):
    """Unequal batches, as in the last step of an epoch, with smoothing and weights.

    ProGrad refuses it, PLOT computes its plans in float32, LoRA draws dropout.
    """
    method, (images, labels) = build(family, name).train(), batch(family, 7)
    method.label_smoothing, method.class_weights = 0.1, torch.tensor([0.3, 1.0, 2.5, 1.0])
    check(method, 3, accumulate=3)
    value, whole = gradients(method, [(images, labels)])
    whole = copy.deepcopy(whole)
    found, parts = gradients(method, list(zip(images.split(3), labels.split(3), strict=True)))
    assert found == pytest.approx(value, rel=1e-12, abs=1e-12) and parts.keys() == whole.keys() and whole
    for key, gradient in whole.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(parts[key], gradient, rtol=1e-10, atol=1e-12 * scale)


def test_what_is_no_mean_over_images_refuses_several_batches(build):
    with pytest.raises(InputError, match="ProGrad has a loss that is not a mean .* set OPTIM.ACCUMULATE 1"):
        check(build("coop", "pro_grad"), 4, accumulate=2)
    method = Line()
    method.head = nn.BatchNorm1d(4)
    with pytest.raises(InputError, match="Line has a batch norm in training mode, so a step cannot be made"):
        check(method, 4, accumulate=2)
    check(method, 4)


def test_methods_without_such_a_loss_or_end_are_refused(tmp_path, build):
    method = build("coop", "prompt_kd")
    for key, value in (("OPTIM.LABEL_SMOOTHING", "0.1"), ("OPTIM.CLASS_WEIGHTS", "inverse_sqrt")):
        with pytest.raises(InputError, match=f"{key} changes the cross-entropy .* has no such loss; set {key}"):
            check_loss(config(tmp_path, key, value), method)
    with pytest.raises(InputError, match="TRAIN.PATIENCE ends training early, but .* set TRAIN.PATIENCE 0"):
        check_loss(config(tmp_path, "TRAIN.PATIENCE", "3"), build("coop", "prompt_src"))
    with pytest.raises(InputError, match="unknown value of OPTIM.CLASS_WEIGHTS 'balanced'; one of: \"\", inverse"):
        config(tmp_path, "OPTIM.CLASS_WEIGHTS", "balanced")
