"""Steps that are captured in a graph: the numbers of ordinary steps, here with a plain call in place of a replay."""

import logging
import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn

from promptvision.engine.capture import graph
from promptvision.engine.capture.optimizer import RULES
from promptvision.engine.checkpoint import load_checkpoint
from promptvision.engine.evaluate import evaluate
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import OPTIMIZERS, build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import Diverged
from promptvision.method import Method

CPU, BATCHES = torch.device("cpu"), 4


class Net(Method):
    """Two layers with batch statistics on a frozen one; `odd` may do in a step what a graph cannot."""

    def __init__(self, odd=lambda method, logits: logits):
        super().__init__(nn.Linear(12, 16), ["a", "b"])
        self.head = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 2))
        self.odd, self.unused = odd, nn.Parameter(torch.ones(2))

    def forward(self, images):
        return self.odd(self, self.head(self.backbone(images.flatten(1))))


class Loader:
    """Four batches an epoch, the last one smaller; `before` is called as each is read."""

    def __init__(self, before=lambda epoch, batch: None, sizes=(8, 8, 8, 5)):
        self.before, self.sizes = before, sizes

    def __len__(self):
        return len(self.sizes)

    def epoch(self, epoch, start=0):
        for batch in range(start, len(self)):
            generator = torch.Generator().manual_seed(100 * epoch + batch)
            images = torch.randn(self.sizes[batch], 3, 2, 2, generator=generator)
            images = images * torch.nan if self.before(epoch, batch) == "nan" else images
            yield images, (images.flatten(1).sum(dim=1) > 0).long()


@pytest.fixture(autouse=True)
def captured(monkeypatch):
    """Let a CPU capture steps, whose replay is a plain call; yield the steps that are captured."""
    found, start = [], graph.Capture.start
    monkeypatch.setattr(graph, "DEVICES", {"cuda", "cpu"})
    monkeypatch.setattr(graph.Capture, "start", lambda self: (found.append(self), start(self)))
    return found


def train(path, how, *, name="sgd", epochs=3, decay=5e-4, method=None, loader=None, resume=False, **options):
    """(method, rows without seconds, optimiser, result) of a run with COMPUTE.GRAPH `how`."""
    torch.manual_seed(3)
    method = method() if method else Net()
    optimizer = build_optimizer(name, method.named_parameters(), 0.05, decay, no_decay={"head.1.bias"})
    rates = learning_rates("cosine", 0.05, epochs, warmup_epochs=1, warmup_lr=1e-3, warmup_type="linear")
    options = {"validate_every": 1, "validate": lambda epoch: evaluate(method, Loader().epoch(99), CPU), **options}
    with RunFolder(path, resume=resume) as folder:
        found = fit(
            method, loader or Loader(), optimizer, rates, folder,
            seed=1, device=CPU, progress=False, graph=how, **options,
        )  # fmt: skip
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder.metrics)]
    return method, rows, optimizer, {key: value for key, value in found.items() if key != "seconds"}


def same_tensors(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, dict):
            same_tensors(value, second[key])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


def same(first, second):
    assert first[1] == second[1] and first[3] == second[3] and len(first[1]) > 3
    same_tensors(first[0].state_dict(), second[0].state_dict())
    same_tensors(first[2].state_dict()["state"], second[2].state_dict()["state"])


def reasons(caplog):
    found = [record.getMessage().partition("CUDA graph: ")[2] for record in caplog.records]
    return [reason for reason in found if reason]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {}),
        ("sgd", {"decay": 0.0}),
        ("sgd", {"clip": 0.3}),
        ("adam", {}),
        ("adam", {"clip": 0.3, "decay": 0.0}),
        ("amsgrad", {}),
        ("adamw", {"decay": 0.1}),
        ("vpt_adamw", {"decay": 0.1}),
        ("vpt_adamw", {"decay": 0.0}),
        ("adam", {"per_step": True, "epochs": 11}),
        ("adamw", {"precision": "bf16"}),
    ],
)
def test_captured_steps_are_ordinary_steps_bit_for_bit(tmp_path, captured, name, options):
    same(
        train(tmp_path / "graph", "auto", name=name, **options), train(tmp_path / "plain", "off", name=name, **options)
    )
    assert len(captured) == 1 and captured[0].replay


def test_momentum_off_and_fast_biases_are_the_same_too(tmp_path):
    torch.manual_seed(0)
    methods = [Net() for _ in range(2)]
    methods[1].load_state_dict(methods[0].state_dict())
    for method, how in zip(methods, ("auto", "off"), strict=True):
        optimizer = build_optimizer("sgd", method.named_parameters(), 0.1, 0.01, momentum=0.0, bias_multiplier=2.0)
        with RunFolder(tmp_path / how) as folder:
            fit(method, Loader(), optimizer, [0.1] * 3, folder, seed=1, device=CPU, progress=False, graph=how)
    same_tensors(methods[0].state_dict(), methods[1].state_dict())


@pytest.mark.parametrize("broken", [(0, 0), (0, 3), (1, 2), (2, 3)])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_loss_that_is_not_finite_changes_nothing_and_is_named(tmp_path, name, broken):
    found = []
    for how in ("auto", "off"):
        torch.manual_seed(0)
        method, loader = Net(), Loader(lambda *at: "nan" if at == broken else None)
        with pytest.raises(Diverged) as error:
            train(tmp_path / how, how, name=name, loader=loader, method=lambda method=method: method)
        rows = [{**row, "seconds": 0} for row in read_rows(tmp_path / how / "metrics.jsonl")]
        found.append((str(error.value).replace(how, ""), rows, method))
    assert f"the loss is nan at step {4 * broken[0] + broken[1]} (epoch {broken[0]}, " in found[0][0]
    assert found[0][:2] == found[1][:2]
    same_tensors(*({key: p.data for key, p in method.named_parameters()} for _, _, method in found))


def test_what_follows_a_loss_that_is_not_finite_changes_nothing_either():
    method = Net()
    optimizer = build_optimizer("adam", method.named_parameters(), 0.1, 0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = graph.choose_step(graph.Step(method, optimizer, scaler, CPU, "fp32", 0.0), "auto", 1)
    batches = list(Loader(sizes=(8,) * 8).epoch(0))
    for batch in batches[:5]:
        assert np.isfinite(float(step.take([batch])))
    before = {key: parameter.clone() for key, parameter in method.named_parameters()}
    moments = {p: state["exp_avg"].clone() for p, state in optimizer.state.items()}
    assert np.isnan(float(step.take([(batches[5][0] * torch.nan, batches[5][1])])))
    step.take([batches[6]])
    assert step.capture.replay
    same_tensors(before, dict(method.named_parameters()))
    same_tensors(moments, {p: state["exp_avg"] for p, state in optimizer.state.items()})


def stop_at(*place):
    return Loader(lambda *at: os.kill(os.getpid(), signal.SIGTERM) if at == place else None)


@pytest.mark.parametrize("name", ["sgd", "adam", "vpt_adamw"])
@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, 2), (2, 3)])
def test_a_run_stopped_anywhere_and_resumed_is_bit_identical(tmp_path, name, place):
    whole = train(tmp_path / "whole", "off", name=name)
    for how, again in (("auto", "auto"), ("auto", "off"), ("off", "auto")):
        path = tmp_path / f"{how}{again}"
        with pytest.raises(SystemExit):
            train(path, how, name=name, loader=stop_at(*place))
        position = load_checkpoint(path / "last.ckpt")["position"]
        rows = [row["loss"] for row in read_rows(path / "metrics.jsonl") if "loss" in row]
        assert position[:2] == (place[0], place[1] + 1) and position[3] == rows[-1]
        assert len(rows) == 4 * place[0] + place[1] + 1
        same(train(path, again, name=name, resume=True), whole)


def test_a_crash_costs_only_the_way_since_the_last_checkpoint(tmp_path):
    def crash(*at):
        if at == (2, 2):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "parts", "auto", loader=Loader(crash))
    assert load_checkpoint(tmp_path / "parts" / "last.ckpt")["position"][:2] == (2, 0)
    same(train(tmp_path / "parts", "auto", resume=True), train(tmp_path / "whole", "off"))


def test_rows_of_a_step_and_of_a_validation_keep_their_order(tmp_path):
    rows = train(tmp_path, "auto", checkpoint_seconds=1e-9)[1]
    assert [(row["step"], "loss" in row) for row in rows[:6]] == [(0, 1), (1, 1), (2, 1), (3, 1), (3, 0), (4, 1)]


def test_early_stopping_is_the_same(tmp_path):
    scores = {"validate": lambda epoch: {"accuracy": [50.0, 60.0, 55.0, 55.0][epoch]}, "patience": 1, "epochs": 4}
    found = [train(tmp_path / how, how, **scores) for how in ("auto", "off")]
    same(*found)
    assert found[0][3]["epochs"] == 3


def test_a_loss_is_read_when_the_next_step_is_on_its_way(tmp_path):
    seen = []

    def count(epoch, batch):
        path = tmp_path / "metrics.jsonl"
        seen.append(path.read_text().count("loss") if path.exists() else 0)

    train(tmp_path, "auto", epochs=2, loader=Loader(count), validate_every=0)
    assert seen == [0, 0, 1, 2, 4, 4, 5, 6]


# obstacles


def read_back(method, logits):
    return logits * (2.0 if logits.sum().item() > 1e9 else 1.0)


def count_calls(method, logits):
    method.calls = getattr(method, "calls", 0) + 1
    return logits


OBSTACLES = {
    "Net draws random numbers in a step": lambda method, logits: nn.functional.dropout(logits, 0.1, method.training),
    "Net draws random numbers in a step ": lambda method, logits: logits * (0.5 + random.random()),
    "Net draws random numbers in a step  ": lambda method, logits: logits * (0.5 + np.random.rand()),
    "Net reads numbers back from the device in a step (_local_scalar_dense)": read_back,
    "Net reads numbers back from the device in a step (nonzero)": lambda m, logits: logits + 0 * logits.nonzero().sum(),
    "Net makes a tensor of numbers of the host in a step": lambda m, logits: logits * torch.tensor([1.0, 2.0]),
    "Net changes Net.calls in a step": count_calls,
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_a_step_that_a_graph_cannot_repeat_is_not_captured(tmp_path, captured, caplog, reason):
    caplog.set_level(logging.INFO, "promptvision")
    odd = OBSTACLES[reason]
    found = train(tmp_path / "graph", "auto", method=lambda: Net(odd))
    assert reasons(caplog) == [reason.strip()] and not captured
    same(found, train(tmp_path / "plain", "off", method=lambda: Net(odd)))


def test_a_tensor_that_moves_between_devices_is_noted():
    with graph.Watch(Net(), CPU) as watch:
        torch.ones(3).to("meta")
    assert watch.obstacle == "Net moves tensors between devices in a step (_to_copy)"


class Averaged(Net):
    def end_epoch(self, epoch, epochs):
        pass


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("a step takes 2 batches (OPTIM.ACCUMULATE)", {"accumulate": 2}),
        ("the host scales the loss in fp16 (TRAIN.PRECISION)", {"precision": "fp16"}),
        ("Averaged changes at the ends of epochs", {"method": Averaged}),
        ("the optimiser RAdam needs the host in each step (OPTIM.NAME)", {"name": "radam"}),
        ("the optimiser RMSprop needs the host in each step (OPTIM.NAME)", {"name": "rmsprop"}),
    ],
)
def test_a_run_that_no_graph_can_hold_takes_ordinary_steps(tmp_path, captured, caplog, reason, options):
    caplog.set_level(logging.INFO, "promptvision")
    found = train(tmp_path / "graph", "auto", **options)
    assert reasons(caplog) == [reason] and not captured
    same(found, train(tmp_path / "plain", "off", **options))


def test_several_processes_take_ordinary_steps(tmp_path, captured, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "promptvision")
    monkeypatch.setattr(graph, "part", lambda: (0, 2))
    train(tmp_path, "auto")
    assert reasons(caplog) == ["several processes share each batch"] and not captured


def test_an_optimiser_of_your_own_takes_ordinary_steps():
    parameter = [nn.Parameter(torch.ones(2))]
    assert graph.unknown_optimizer(torch.optim.SGD(parameter, nesterov=True, momentum=0.9)) == (
        "an optimiser with nesterov"
    )
    assert graph.unknown_optimizer(torch.optim.Adam(parameter, maximize=True)) == "an optimiser with maximize"
    known = {type(build_optimizer(name, [("a", parameter[0])], 0.1, 0.1)) for name in OPTIMIZERS}
    assert known - {torch.optim.RMSprop, torch.optim.RAdam} == RULES.keys()


@pytest.mark.parametrize("sizes", [(8, 8, 8, 5), (8, 5), (5,), (8, 8)])
def test_a_smaller_last_batch_is_told_once(tmp_path, captured, caplog, sizes):
    caplog.set_level(logging.INFO, "promptvision")
    loader = lambda: Loader(sizes=sizes)  # noqa: E731
    found = train(tmp_path / "graph", "auto", loader=loader(), epochs=5)
    said = ["a batch of 5 among batches of 8, in its own step alone"] * (len(set(sizes)) > 1)
    assert reasons(caplog) == said and len(captured) == 1
    same(found, train(tmp_path / "plain", "off", loader=loader(), epochs=5))


def test_a_capture_that_fails_falls_back(tmp_path, caplog, monkeypatch):
    def fail(self):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    caplog.set_level(logging.INFO, "promptvision")
    monkeypatch.setattr(graph.Capture, "start", fail)
    found = train(tmp_path / "graph", "auto")
    assert reasons(caplog) == ["CUDA error: operation not permitted when stream is capturing"]
    same(found, train(tmp_path / "plain", "off"))


def test_a_cpu_captures_nothing_and_says_nothing(tmp_path, captured, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "promptvision")
    monkeypatch.setattr(graph, "DEVICES", {"cuda"})
    train(tmp_path, "auto")
    assert not reasons(caplog) and not captured


def test_a_capture_keeps_alive_what_it_reads():
    constant, inputs = torch.ones(3, 3), torch.ones(2, 3)
    with graph.Held() as held:
        hidden = (inputs @ constant).relu_()
        (hidden.view(6) * 2).sum()
    assert [*held.tensors] == [inputs.data_ptr(), constant.data_ptr()]


def test_frozen_weights_that_change_are_captured_again(tmp_path, captured, monkeypatch):
    changes = iter([False, False, True, False, False, False])
    monkeypatch.setattr(Net, "pin", lambda self, on=True: next(changes, False))
    same(train(tmp_path / "graph", "auto", epochs=5), train(tmp_path / "plain", "off", epochs=5))
    assert len(captured) == 2
