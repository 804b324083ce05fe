"""Steps that are captured in a graph: the numbers of ordinary steps, here with a plain call in place of a replay."""

import os
import signal

import numpy as np
import pytest
import torch
from captured_steps import CPU, Loader, Net, same, same_tensors, train

from promptvision.engine.capture import graph
from promptvision.engine.checkpoint import load_checkpoint
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.optim import build_optimizer
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import Diverged

pytestmark = pytest.mark.usefixtures("captured")


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
