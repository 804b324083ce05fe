"""The loop: what it learns, and that stopping, killing and resuming change nothing."""

import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint, save_learned
from promptvision.engine.device import autocast, choose_device
from promptvision.engine.evaluate import evaluate
from promptvision.engine.interrupt import Pruned
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import InputError
from promptvision.method import Method

CPU, EPOCHS, BATCHES = torch.device("cpu"), 4, 3


class Tiny(Method):
    """A head with batch statistics and dropout on a frozen layer; draws from all three generators."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.9)), ["a", "b"])
        self.head = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, images):
        features = self.backbone(images.flatten(1))
        if self.training:
            features = features * (0.5 + random.random()) + np.random.rand()
        return self.head(features)


class Batches:
    """Three batches an epoch, each a function of (epoch, batch); draws from the global generator as loaders do."""

    def __init__(self, before=lambda epoch, batch: None):
        self.before = before

    def __len__(self):
        return BATCHES

    def epoch(self, epoch, start=0):
        torch.rand(())
        for batch in range(start, BATCHES):
            self.before(epoch, batch)
            images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(100 * epoch + batch))
            yield images, (images.flatten(1).sum(dim=1) > 0).long()


def train(
    path, *, resume=False, loader=None, precision="fp32", name="adam", lr=0.05, epochs=EPOCHS, val=None, **options
):
    """(method, rows without seconds, result) of a run; the same start whatever was drawn before."""
    torch.manual_seed(3)
    method = Tiny()
    torch.manual_seed(random.randrange(2**31))
    optimizer = build_optimizer(name, method.named_parameters(), lr, 5e-4)
    rates = learning_rates("cosine", lr, epochs, warmup_epochs=1, warmup_lr=1e-3)
    val = val or list(Batches().epoch(99))
    with RunFolder(path, resume=resume) as folder:
        found = fit(
            method,
            loader or Batches(),
            optimizer,
            rates,
            folder,
            seed=1,
            device=CPU,
            precision=precision,
            validate=lambda epoch: evaluate(method, val, CPU),
            progress=False,
            **{"validate_every": 2, **options},
        )
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in read_rows(folder.metrics)]
    return method, rows, found


def same(first, second):
    (method, rows, _), (other, other_rows, _) = first, second
    state, other_state = method.learned_state(), other.learned_state()
    assert rows == other_rows
    assert state.keys() == other_state.keys() and all(torch.equal(state[name], other_state[name]) for name in state)


def stop_at(epoch, batch, number=signal.SIGTERM):
    return Batches(lambda e, b: os.kill(os.getpid(), number) if (e, b) == (epoch, batch) else None)


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


@pytest.mark.fault("files")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (1, 2), (2, 1), (3, 2)])
def test_a_run_stopped_anywhere_and_resumed_is_bit_identical(tmp_path, precision, epoch, batch):
    whole = train(tmp_path / "whole", precision=precision)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "parts", precision=precision, loader=stop_at(epoch, batch))
    assert stopped.value.code == 143
    assert "resume with --resume auto" in (tmp_path / "parts" / "log.txt").read_text()
    same(train(tmp_path / "parts", precision=precision, resume=True), whole)


@pytest.mark.parametrize("name", ["sgd", "amsgrad", "rmsprop", "radam", "adamw"])
def test_every_optimizer_resumes_exactly(tmp_path, name):
    whole = train(tmp_path / "whole", name=name)
    for epoch, number, code in ((1, signal.SIGINT, 130), (2, signal.SIGTERM, 143)):
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path / "parts", name=name, loader=stop_at(epoch, 1, number), resume=epoch > 1)
        assert stopped.value.code == code
    same(train(tmp_path / "parts", name=name, resume=True), whole)


@pytest.mark.fault("files")
def test_a_crash_between_checkpoints_costs_only_the_way_since_the_last(tmp_path):
    def crash(epoch, batch):
        if (epoch, batch) == (3, 1):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "parts", loader=Batches(crash), checkpoint_every=2, validate_every=1)
    assert load_checkpoint(tmp_path / "parts" / "last.ckpt")["position"][:2] == (2, 0)
    whole = train(tmp_path / "whole", validate_every=1)
    same(train(tmp_path / "parts", resume=True, checkpoint_every=3, validate_every=1), whole)


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 1), (2, 0)])
def test_a_rate_for_every_step_may_end_within_an_epoch(tmp_path, epoch, batch):
    steps = {"epochs": 7, "per_step": True, "validate_every": 1}
    whole = train(tmp_path / "whole", **steps)
    _, rows, found = whole
    assert [row["lr"] for row in rows if "loss" in row] == learning_rates(
        "cosine", 0.05, 7, warmup_epochs=1, warmup_lr=1e-3
    )
    assert (found["steps"], found["epochs"]) == (7, 3)
    assert [row["step"] for row in rows if "val" in row] == [2, 5, 6]
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", loader=stop_at(epoch, batch), **steps)
    same(train(tmp_path / "parts", resume=True, **steps), whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(tmp_path)
    again = train(tmp_path, resume=True, loader=Batches(lambda epoch, batch: pytest.fail("trained again")))
    same(first, again)
    assert again[2] == first[2]


def test_without_resume_everything_starts_anew(tmp_path):
    with pytest.raises(SystemExit):
        train(tmp_path / "a", loader=stop_at(2, 1))
    same(train(tmp_path / "a"), train(tmp_path / "b"))


def test_a_stop_during_validation_is_heeded(tmp_path):
    method, sent = Tiny(), []

    def validate(epoch):
        sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return {}

    optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.0)
    with RunFolder(tmp_path) as folder, pytest.raises(SystemExit, match="143"):
        fit(
            method, Batches(), optimizer, [0.1] * 9, folder,
            seed=1, device=CPU, validate=validate, validate_every=1, progress=False,
        )  # fmt: skip
    assert len(sent) == 1 and load_checkpoint(tmp_path / "last.ckpt")["position"][:2] == (1, 0)


def test_a_run_that_is_given_up_is_saved_and_can_be_gone_on_with(tmp_path):
    whole, told = train(tmp_path / "whole", validate_every=1), []

    def watch(epoch, found):
        told.append((epoch, found))
        return epoch >= 1

    with pytest.raises(Pruned) as pruned:
        train(tmp_path / "parts", validate_every=1, checkpoint_every=9, watch=watch)
    assert pruned.value.epochs == 2
    assert told == [(row["epoch"], row["val"]) for row in whole[1] if "val" in row][:2]
    assert load_checkpoint(tmp_path / "parts/last.ckpt")["position"][:2] == (2, 0)
    same(train(tmp_path / "parts", resume=True, validate_every=1), whole)
    train(tmp_path / "last", validate_every=1, watch=lambda epoch, found: epoch == EPOCHS - 1)


def test_signals_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_thread_that_cannot_listen_to_signals_can_train(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        same(pool.submit(train, tmp_path / "thread").result(), train(tmp_path / "main"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.1}, "its learning rates is"),
        ({"epochs": 9}, "its learning rates is"),
        ({"precision": "bf16"}, "its precision is 'fp32', here it is 'bf16'"),
        ({"identity": {"METHOD": {"NAME": "b", "X": 1}}}, "its METHOD.NAME is 'a', here it is 'b'"),
        ({"identity": {"METHOD": {"NAME": "a", "X": 1, "Y": 2}}}, "its METHOD.Y is None, here it is 2"),
        ({"identity": {"METHOD": {"NAME": "a"}}}, "its METHOD.X is 1, here it is None"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, said):
    identity = {"METHOD": {"NAME": "a", "X": 1}}
    train(tmp_path, identity=identity)
    with pytest.raises(InputError, match="last.ckpt does not fit this run: " + re.escape(said)) as error:
        train(tmp_path, resume=True, **{"identity": identity, **change})
    assert "choose another OUTPUT_DIR, or replace that run with --overwrite" in str(error.value)


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "change",
    [
        {"learned": {}},
        {"learned": {"head.0.weight": torch.zeros(3)}},
        {"learned": 3},
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"scaler": None},
        {"position": ()},
        {"position": (1, 2, 3, 4, 5)},
        {"position": ("a", None, 0.0, 0.0)},
        {"position": (-1, 0, 0.0, 0.0)},
        {"identity": None},
    ],
)
def test_a_checkpoint_with_foreign_contents_is_refused(tmp_path, change):
    train(tmp_path, precision="fp16")
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {**load_checkpoint(path), **change})
    with pytest.raises(InputError, match="last.ckpt does not fit this run"):
        train(tmp_path, precision="fp16", resume=True)


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


def wait_for_rows(path, count):
    until = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.002)


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT


@pytest.mark.fault("files")
@pytest.mark.slow
def test_a_process_that_is_killed_and_stopped_again_and_again_ends_the_same(tmp_path):
    metrics, program = tmp_path / "parts" / "metrics.jsonl", [sys.executable, __file__, str(tmp_path / "parts")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, **pipes) as runner:
        for count, number, code in ((2, KILL, -9), (5, KILL, -9), (6, KILL, -9), (9, TERM, 143), (12, INT, 130)):
            print(file=runner.stdin, flush=True)
            child = int(runner.stdout.readline())
            wait_for_rows(metrics, count)
            os.kill(child, number)
            assert int(runner.stdout.readline()) == code
        codes, said = runner.communicate("\n")
    assert codes.split()[1] == "0"
    assert [line.partition(" in epoch")[0] for line in said.splitlines()] == ["Stopped", "Stopped"]
    method, rows, _ = train(tmp_path / "whole")
    save_learned(tmp_path / "whole.safetensors", method.learned_state(), {"classes": ["a", "b"]})
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    parts = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [{name: value for name, value in row.items() if name != "seconds"} for row in parts] == rows


class Validation:
    """Slow batches, each of which leaves a file in `folder` when it is at hand."""

    def __init__(self, folder):
        self.folder = folder

    def __iter__(self):
        for number, batch in enumerate(Batches().epoch(99)):
            (self.folder / f"batch{number}").touch()
            time.sleep(2.0)
            yield batch


@pytest.mark.fault("files")
@pytest.mark.parametrize(("number", "status"), [(TERM, 143), (INT, 130)])
def test_a_signal_to_a_process_that_validates_does_not_wait_for_the_rest(tmp_path, number, status):
    program = [sys.executable, __file__, str(tmp_path / "parts"), "validates"]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "batch0").exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == status and not (tmp_path / "batch2").exists(), said
    assert said == "Stopped in epoch 1 after batch 3; resume with --resume auto\n"
    assert load_checkpoint(tmp_path / "parts/last.ckpt")["position"][:2] == (1, 3)
    assert '"val"' not in (tmp_path / "parts/metrics.jsonl").read_text()
    same(train(tmp_path / "parts", resume=True), train(tmp_path / "whole"))


def show_warnings():
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    logging.getLogger("promptvision").addHandler(console)


def run_slowly(out):
    show_warnings()
    method, _, _ = train(out, resume=True, loader=Batches(lambda epoch, batch: time.sleep(0.05)))
    save_learned(out.with_suffix(".safetensors"), method.learned_state(), {"classes": ["a", "b"]})


if __name__ == "__main__":  # for each line of input: a run in a process of its own, its number, its exit status
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    if "validates" in sys.argv:
        show_warnings()
        train(Path(sys.argv[1]), val=Validation(Path(sys.argv[1]).parent))
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            run_slowly(Path(sys.argv[1]))
            break
        os.write(1, f"{child}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
