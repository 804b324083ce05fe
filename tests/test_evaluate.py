"""Scores against the official numbers, plain re-computations and hand-made cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from promptvision.engine.evaluate import evaluate, predict, scores
from promptvision.errors import InputError
from promptvision.method import Method

CPU = torch.device("cpu")


class Counting(Method):
    """Logits are the first pixels; counts how often it prepares to predict."""

    def __init__(self, classes):
        super().__init__(nn.Identity(), classes)
        self.scale = nn.Parameter(torch.ones(()))
        self.prepared = 0

    def forward(self, images):
        assert not self.training and not torch.is_grad_enabled()
        return images.flatten(1)[:, : len(self.classes)] * self.scale

    def predictor(self):
        self.prepared += 1
        return self.forward


def test_vpt_metrics(golden):
    case, _ = golden("vpt/eval_metrics")
    names = {"top1": "accuracy", "rocauc": "roc_auc"}
    for size in sorted(key.removeprefix("result") for key in case if key.startswith("result")):
        found = scores(torch.tensor(case[f"scores{size}"]), torch.tensor(case[f"targets{size}"]))
        for name, value in case[f"result{size}"].items():
            assert found[names.get(name, "top5")] == pytest.approx(100 * value), (size, name)


def test_a_case_by_hand():
    logits = torch.tensor([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]])
    found = scores(logits, torch.tensor([0, 1, 1, 2]))
    assert found["n"] == 4
    assert found["accuracy"] == 75
    assert found["per_class"] == [100, 50, 100, None]
    assert found["per_class_mean"] == pytest.approx(250 / 3)
    assert found["macro_f1"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)
    assert found["top5"] == 100
    confidence = np.exp(9) / (np.exp(9) + 3)
    assert found["ece"] == pytest.approx(100 * (confidence - 0.75), abs=1e-4)
    assert "roc_auc" not in found


def test_a_class_that_is_only_predicted_does_not_count_for_macro_f1():
    found = scores(torch.eye(3)[[0, 2, 1]], torch.tensor([0, 1, 1]))
    assert found["macro_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def plain_ece(logits, labels):
    """Guo et al. 2017, equation 3: bins ((m-1)/15, m/15]."""
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum(np.ceil(confidence * 15), 15)
    return sum(abs(right[bins == m].sum() - confidence[bins == m].sum()) for m in range(1, 16)) / len(labels)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 60), st.floats(0.1, 60), st.integers(0, 2**31))
def test_calibration_error_is_the_plain_one(classes, n, scale, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)) * scale, rng.integers(classes, size=n)
    found = scores(torch.tensor(logits), torch.tensor(labels))
    assert found["ece"] == pytest.approx(100 * plain_ece(logits, labels), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 300), st.floats(0.1, 60), st.integers(0, 2**31))
def test_scores_are_those_of_the_usual_libraries_to_the_last_bit(classes, n, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator) * scale
    labels = torch.randint(classes, (n,), generator=generator)
    found, predicted = scores(logits, labels), logits.argmax(dim=1)
    assert found["macro_f1"] == 100 * f1_score(labels, predicted, average="macro", labels=labels.unique())
    probabilities = logits.double().softmax(dim=1).float().clamp(max=1 - torch.finfo(torch.float32).eps)
    expected = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=15)
    assert found["ece"] == 100 * expected.item()


def test_certainty_shares_a_bin_with_what_is_nearly_certain():
    """One right image of confidence 0.999, one wrong of exactly 1: together |1 - 1.999| / 2."""
    logits = torch.tensor([[np.log(999.0), 0.0], [200.0, 0.0]])
    assert scores(logits, torch.tensor([0, 1]))["ece"] == pytest.approx(49.95, abs=1e-3)


def test_prediction_prepares_once_keeps_the_order_and_the_mode():
    method = Counting(["a", "b", "c"]).train()
    images = torch.randn(7, 3, 2, 2)
    labels = torch.arange(7) % 3
    batches = list(zip(images.split(3), labels.split(3), strict=True))
    logits, targets = predict(method, batches, CPU)
    assert method.prepared == 1 and method.training
    assert torch.equal(logits, images.flatten(1)[:, :3]) and torch.equal(targets, labels)
    assert evaluate(method.eval(), batches, CPU) == scores(logits, labels)
    assert not method.training


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_computes_in_it_and_returns_float32(precision):
    class Linear(Counting):
        def forward(self, images):
            self.kind = nn.functional.linear(images.flatten(1), torch.ones(2, 12)).dtype
            return images.flatten(1)[:, :2].to(self.kind)

    method = Linear(["a", "b"])
    logits, _ = predict(method, [(torch.randn(2, 3, 2, 2), torch.tensor([0, 1]))], CPU, precision)
    assert method.kind == {"fp16": torch.float16, "bf16": torch.bfloat16}[precision] and logits.dtype == torch.float32


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(InputError, match=f"label {label} is out of range: the method has 3 classes, 0 to 2"):
        scores(torch.eye(3), torch.tensor([0, 1, label]))


def test_broken_logits_and_empty_sets_are_refused():
    with pytest.raises(InputError, match="NaN or infinite logits for 2 of 3 images"):
        scores(torch.tensor([[0, 1.0], [np.nan, 0], [np.inf, 0]]), torch.tensor([0, 1, 1]))
    with pytest.raises(InputError, match="no images to evaluate on"):
        predict(Counting(["a"]), [], CPU)
