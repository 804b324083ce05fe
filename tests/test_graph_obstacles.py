"""Steps and runs that no graph can hold: ordinary steps, and a line that says why."""

import logging
import random

import numpy as np
import pytest
import torch
from captured_steps import CPU, Loader, Net, reasons, same, train
from torch import nn

from promptvision.engine.capture import graph
from promptvision.engine.capture.optimizer import RULES
from promptvision.engine.optim import OPTIMIZERS, build_optimizer

pytestmark = pytest.mark.usefixtures("captured")


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
