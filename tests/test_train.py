"""The loop: what it learns, at which rates, and where it stops with a sentence."""

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from training import CPU, Batches, Tiny, same, train

from promptvision.engine.checkpoint import load_checkpoint
from promptvision.engine.device import autocast, choose_device
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import InputError
from promptvision.method import Method


def test_it_learns_at_the_given_rates_and_tells_so(tmp_path):
    method, rows, found = train(tmp_path, epochs=12)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(36)) and [row["epoch"] for row in steps[::3]] == list(range(12))
    assert [row["lr"] for row in steps[::3]] == learning_rates("cosine", 0.05, 12, warmup_epochs=1, warmup_lr=1e-3)
    assert np.mean([row["loss"] for row in steps[-9:]]) < np.mean([row["loss"] for row in steps[:9]]) - 0.1
    assert found["loss"] == steps[-1]["loss"]
    assert found["steps"] == 36 and found["epochs"] == 12 and found["seconds"] > 0
    checks = [row for row in rows if "val" in row]
    assert [(row["step"], row["epoch"]) for row in checks] == [(step, step // 3) for step in range(5, 36, 6)]
    assert 0 < checks[-1]["val"]["accuracy"] <= 100 and "per_class" not in checks[-1]["val"]
    assert method.training and not method.backbone.training
    assert "Finished: 36 steps in 12 epochs" in (tmp_path / "log.txt").read_text()


def test_one_step_is_the_plain_one(tmp_path):
    plain = nn.Linear(12, 2)
    images, labels = next(Batches().epoch(0))

    class Linear(Method):
        def __init__(self):
            super().__init__(nn.Identity(), ["a", "b"])
            self.head = nn.Linear(12, 2)
            self.head.load_state_dict(plain.state_dict())

        def forward(self, images):
            return self.head(images.flatten(1))

    class One:
        def __len__(self):
            return 1

        def epoch(self, epoch, start=0):
            yield from [(images, labels)][start:]

    method = Linear()
    optimizer = build_optimizer("sgd", method.named_parameters(), 9.0, 0.1)
    with RunFolder(tmp_path) as folder:
        fit(method, One(), optimizer, [0.5], folder, seed=0, device=CPU, progress=False)
    loss = nn.functional.cross_entropy(plain(images.flatten(1)), labels)
    gradient = torch.autograd.grad(loss, plain.weight)[0]
    torch.testing.assert_close(method.head.weight, plain.weight - 0.5 * (gradient + 0.1 * plain.weight))


def test_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_thread_that_cannot_listen_to_signals_can_train(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        same(pool.submit(train, tmp_path / "thread").result(), train(tmp_path / "main"))


@pytest.mark.fault("results")
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    class Broken(Batches):
        def epoch(self, epoch, start=0):
            for batch, (images, labels) in enumerate(super().epoch(epoch, start), start):
                yield (images * torch.nan if (epoch, batch) == (2, 1) else images), labels

    said = r"the loss is nan at step 7 \(epoch 2, learning rate 0.0426777\), so training stopped; .*last.ckpt holds the"
    with pytest.raises(InputError, match=said):
        train(tmp_path, loader=Broken())
    state = load_checkpoint(tmp_path / "last.ckpt")
    assert state["position"][:2] == (2, 0)
    assert all(tensor.isfinite().all() for tensor in state["learned"].values())


@pytest.mark.fault("results")
def test_learned_tensors_that_burst_in_the_last_step_are_not_saved(tmp_path):
    class One(Batches):
        def __len__(self):
            return 1

        def epoch(self, epoch, start=0):
            yield from list(super().epoch(epoch))[start:1]

    method = Tiny()
    optimizer = build_optimizer("sgd", method.named_parameters(), 1e30, 1e30)
    said = (
        "learned tensor 'head.0.weight' became NaN or infinite at step 1 .* there is no checkpoint yet; try a smaller"
    )
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=said):
        fit(method, One(), optimizer, [1e30], folder, seed=1, device=CPU, progress=False)
    assert not (tmp_path / "last.ckpt").exists()


def test_labels_out_of_range_are_named(tmp_path):
    class Wrong(Batches):
        def epoch(self, epoch, start=0):
            for images, labels in super().epoch(epoch, start):
                yield images, labels + 1

    with pytest.raises(InputError, match="label 2 is out of range: the method has 2 classes"):
        train(tmp_path, loader=Wrong())


def test_a_method_that_learns_nothing_is_left_alone(tmp_path):
    method = Tiny().requires_grad_(False)
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    with RunFolder(tmp_path) as folder:
        found = fit(method, Batches(), optimizer, [0.1], folder, seed=1, device=CPU)
        assert found == {"steps": 0, "epochs": 0, "seconds": 0.0, "loss": None}
        assert not folder.checkpoint.exists() and read_rows(folder.metrics) == []


def test_learned_tensors_are_trained_in_float32(tmp_path):
    method = Tiny()
    method.head[2].half()
    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    with RunFolder(tmp_path) as folder:
        fit(method, Batches(), optimizer, [0.1], folder, seed=1, device=CPU, precision="fp16", progress=False)
    assert {parameter.dtype for parameter in method.head.parameters()} == {torch.float32}


def test_devices_and_precisions():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="unknown device 'gpu'; did you mean 'cpu'"):
        choose_device("gpu")
    with pytest.raises(
        InputError, match=r"TRAIN.DEVICE cuda:99: torch .* sees (no|\d+) CUDA devices?; use auto or cpu"
    ):
        choose_device("cuda:99")
    with pytest.raises(InputError, match="unknown precision 'fp64'; did you mean"):
        autocast(CPU, "fp64")
