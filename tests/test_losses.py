"""Label smoothing, class weights, several batches per step, and training that ends early."""

import copy
import os
import signal

import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

import coop
import vpt
from promptvision.backbones import load_clip, load_vit
from promptvision.config import load_config, resolved
from promptvision.config.families import FAMILIES
from promptvision.engine.checkpoint import load_checkpoint
from promptvision.engine.distributed import check
from promptvision.engine.earlier_run import ADDED, first_difference
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.resume import check_identity
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import _step, fit
from promptvision.errors import InputError
from promptvision.experiment.loss import check_loss, class_weights
from promptvision.experiment.run import run
from promptvision.experiment.schedule import base_rate, epochs, rates, steps
from promptvision.method import Method

CPU, NAMES = torch.device("cpu"), ["cat", "dog", "golden_retriever", "hen"]
TRAINED = {
    "coop": ("coop", "cocoop", "kg_coop", "maple", "prompt_src", "pro_grad", "plot", "tcp", "task_res", "clip_adapter"),
    "vpt": ("linear", "prompt", "l2p", "dual_prompt", "coda_prompt", "lora"),
}
CASES = [(family, name) for family, names in TRAINED.items() for name in names]


class Line(Method):
    """A head on the pixels."""

    def __init__(self, classes=NAMES):
        super().__init__(nn.Identity(), classes)
        self.head = nn.Linear(12, len(classes))

    def forward(self, images):
        return self.head(images.flatten(1))


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
    method.cross_entropy = lambda logits_, labels_, **how: (
        logits.append((logits_, labels_)) or inner(logits_, labels_, **how)
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
    loss = _step(method, groups, optimizer, scaler, CPU, "fp32", clip)
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


class Loader:
    """Five batches of two images an epoch, or those joined `together` at a time."""

    def __init__(self, together=1, stop=None):
        self.together, self.stop = together, stop

    def __len__(self):
        return -(-5 // self.together)

    def epoch(self, epoch, start=0):
        generator = torch.Generator().manual_seed(epoch)
        images = torch.randn(10, 3, 2, 2, generator=generator)
        labels = (images.flatten(1).sum(dim=1) > 0).long()
        parts = list(zip(images.split(2 * self.together), labels.split(2 * self.together), strict=True))
        for number in range(start, len(parts)):
            if self.stop == (epoch, number):
                os.kill(os.getpid(), signal.SIGTERM)
            yield parts[number]


def train(path, loader, *, resume=False, per_step=False, scores=(), count=4, **options):
    """(method, rows, what fit returns) of a run of 3 steps an epoch; validation of epoch e gives `scores[e]`."""
    torch.manual_seed(0)
    method = Line(["a", "b"])
    optimizer = build_optimizer("adam", method.named_parameters(), 0.1, 0.0)
    if scores:
        options |= {"validate": lambda epoch: {"accuracy": scores[epoch]}, "validate_every": 1}
    with RunFolder(path, resume=resume) as folder:
        found = fit(
            method, loader, optimizer, learning_rates("cosine", 0.1, count), folder,
            seed=1, device=CPU, per_step=per_step, progress=False, **options,
        )  # fmt: skip
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder.metrics)]
    return method, rows, {key: value for key, value in found.items() if key != "seconds"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("per_step", [False, True])
def test_a_run_of_small_batches_is_that_of_large_ones(tmp_path, per_step, precision):
    """Steps, rates and the scale of mixed precision count steps, the last of an epoch is of one batch."""
    more = {"per_step": per_step, "count": 8 if per_step else 4, "precision": precision, "clip": 0.5}
    large = train(tmp_path / "large", Loader(2), **more)
    small = train(tmp_path / "small", Loader(), accumulate=2, **more)
    assert small[2]["steps"] == large[2]["steps"] == (8 if per_step else 12)
    for ours, theirs in zip(small[1], large[1], strict=True):
        assert ours | {"loss": 0} == theirs | {"loss": 0}
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5 if precision == "fp32" else 2e-3)
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    torch.testing.assert_close(small[0].head.weight, large[0].head.weight, rtol=tolerance, atol=tolerance)
    scales = [load_checkpoint(tmp_path / name / "last.ckpt")["scaler"] for name in ("small", "large")]
    assert scales[0] == scales[1]


@pytest.mark.parametrize("stop", [(0, 1), (1, 2), (2, 4)])
def test_a_run_of_several_batches_per_step_resumes_exactly(tmp_path, stop):
    whole = train(tmp_path / "whole", Loader(), accumulate=2)
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", Loader(stop=stop), accumulate=2)
    again = train(tmp_path / "parts", Loader(), accumulate=2, resume=True)
    assert again[1:] == whole[1:] and torch.equal(again[0].head.weight, whole[0].head.weight)


def test_the_schedule_counts_steps(tmp_path):
    cfg = config(tmp_path, "OPTIM.ACCUMULATE", "2", "OPTIM.SCALE_LR", "true", "OPTIM.BATCH_SIZE", "64")
    assert base_rate(cfg) == cfg.OPTIM.LR / 256 * 128
    assert (steps(cfg, 5), epochs(cfg, 5), len(rates(cfg, 5))) == (18, 6, 6)
    cfg = config(tmp_path, "OPTIM.ACCUMULATE", "2", "OPTIM.ITERATIONS", "7")
    assert (steps(cfg, 5), epochs(cfg, 5), len(rates(cfg, 5))) == (7, 3, 7)
    assert len(set(rates(cfg, 5)[:3])) == 1 and len(set(rates(cfg, 5))) == 3


# early stopping

SCORES = [10.0, 30.0, 20.0, 30.0, 30.0, 90.0]


@pytest.mark.parametrize(("patience", "trained"), [(0, 6), (1, 3), (2, 4), (3, 5), (4, 6)])
def test_training_ends_when_the_best_epoch_is_long_ago(tmp_path, patience, trained):
    sparse = {"count": 6, "patience": patience, "checkpoint_every": 9}
    method, rows, found = train(tmp_path / "run", Loader(), scores=SCORES, **sparse)
    assert (found["epochs"], found["steps"]) == (trained, 5 * trained)
    assert [row["epoch"] for row in rows if "val" in row] == list(range(trained))
    again = train(tmp_path / "run", Loader(), scores=[0] * 6, resume=True, **sparse)
    assert again[1:] == (rows, found), "a run that has ended early is not trained on"
    assert torch.equal(again[0].head.weight, method.head.weight)


@pytest.mark.parametrize("stop", [(0, 3), (2, 0), (2, 4), (3, 1)])
def test_early_stopping_resumes_exactly(tmp_path, stop):
    whole = train(tmp_path / "whole", Loader(), scores=SCORES, count=6, patience=2)
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", Loader(stop=stop), scores=SCORES, count=6, patience=2)
    again = train(tmp_path / "parts", Loader(), scores=SCORES, count=6, patience=2, resume=True)
    assert again[1:] == whole[1:] and torch.equal(again[0].head.weight, whole[0].head.weight)


def test_epochs_without_a_validation_count(tmp_path):
    found = train(tmp_path, Loader(), count=9, patience=3, validate=lambda epoch: {"accuracy": 5.0}, validate_every=2)
    assert found[2]["epochs"] == 6, "the best epoch is 1, and epoch 5 is the first validated one three later"


# configured runs

CONFIG = """
METHOD: {FAMILY: vpt, NAME: linear}
DATASET: {NAME: digits, SHOTS: 2}
OPTIM: {LR: 0.5, EPOCHS: 6, WARMUP_EPOCHS: 0, BATCH_SIZE: 8}
INPUT: {TRAIN: center, TEST: center}
TRAIN: {DEVICE: cpu}
"""


def config(tmp_path, *words):
    (tmp_path / "c.yaml").write_text(CONFIG)
    return load_config(tmp_path / "c.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "run")], FAMILIES)


def test_a_configured_run_ends_early_with_its_best_epoch(tmp_path):
    words = ["TRAIN.PATIENCE", "1", "TRAIN.KEEP", "best", "TRAIN.EVAL_EVERY", "1", "OPTIM.LR", "1e-6"]
    words += ["OPTIM.LABEL_SMOOTHING", "0.1", "OPTIM.ACCUMULATE", "2", "DATASET.IMBALANCE", "2"]
    cfg = config(tmp_path, *words, "OPTIM.CLASS_WEIGHTS", "inverse")
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        result = run(cfg, FAMILIES, folder, progress=False)
    assert result["epochs"] == result["best_epoch"] + 2 < 6
    kept = load_checkpoint(tmp_path / "run/last.ckpt") if (tmp_path / "run/last.ckpt").exists() else None
    assert kept is None or kept["patience"]["best"] == result["best_epoch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["TRAIN.PATIENCE", "2"], "TRAIN.PATIENCE 2 needs evaluations on the validation images: set TRAIN.EVAL_EVERY"),
        (["TRAIN.PATIENCE", "2", "TRAIN.EVAL_EVERY", "1", "DATASET.VALIDATION", "none"], "has no val images"),
        (["METHOD.NAME", "knn", "OPTIM.LABEL_SMOOTHING", "0.1"], "but knn learns nothing step by step here"),
        (
            ["OPTIM.EPOCHS", "0", "OPTIM.CLASS_WEIGHTS", "inverse"],
            'step by step here; set OPTIM.CLASS_WEIGHTS ""',
        ),
    ],
)
def test_what_a_run_cannot_heed_is_refused(tmp_path, words, said):
    cfg = config(tmp_path, *words)
    with RunFolder(cfg.OUTPUT_DIR) as folder, pytest.raises(InputError, match=said):
        run(cfg, FAMILIES, folder, progress=False)


def test_methods_without_such_a_loss_or_end_are_refused(tmp_path, build):
    method = build("coop", "prompt_kd")
    for key, value in (("OPTIM.LABEL_SMOOTHING", "0.1"), ("OPTIM.CLASS_WEIGHTS", "inverse_sqrt")):
        with pytest.raises(InputError, match=f"{key} changes the cross-entropy .* has no such loss; set {key}"):
            check_loss(config(tmp_path, key, value), method)
    with pytest.raises(InputError, match="TRAIN.PATIENCE ends training early, but .* set TRAIN.PATIENCE 0"):
        check_loss(config(tmp_path, "TRAIN.PATIENCE", "3"), build("coop", "prompt_src"))
    with pytest.raises(InputError, match="unknown value of OPTIM.CLASS_WEIGHTS 'balanced'; one of: \"\", inverse"):
        config(tmp_path, "OPTIM.CLASS_WEIGHTS", "balanced")


def test_a_run_of_an_earlier_version_is_the_same_run(tmp_path):
    now = resolved(config(tmp_path))
    earlier = yaml.safe_load(yaml.safe_dump(now))
    for key, value in ADDED.items():
        section, _, name = key.partition(".")
        assert section == "METHOD" or earlier[section].pop(name) == value
    assert first_difference(earlier, now) is None
    check_identity(earlier, now)
    other = resolved(config(tmp_path, "OPTIM.ACCUMULATE", "4"))
    assert first_difference(earlier, other) == "OPTIM.ACCUMULATE was 1, here it is 4"
    with pytest.raises(InputError, match=r"its OPTIM.ACCUMULATE is 1, here it is 4"):
        check_identity(earlier, other)


@pytest.mark.parametrize(("name", "options"), [("plot", 2), ("adapter", 7), ("dual_prompt", 2)])
def test_a_run_without_an_option_that_its_method_has_since_is_the_same_run(tmp_path, name, options):
    family = "coop" if name == "plot" else "vpt"
    now = resolved(config(tmp_path, "METHOD.FAMILY", family, "METHOD.NAME", name))
    earlier = yaml.safe_load(yaml.safe_dump(now))
    new = [key for key in earlier["METHOD"]["OPTIONS"] if f"METHOD.OPTIONS.{key}" in ADDED]
    for key in new:
        del earlier["METHOD"]["OPTIONS"][key]
    assert len(new) == options and first_difference(earlier, now) is None
    check_identity(earlier, now)
