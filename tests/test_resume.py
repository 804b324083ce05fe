"""Stopping, crashing and resuming change nothing; a checkpoint of another run is refused."""

import os
import re
import signal

import pytest
import torch
from training import CPU, EPOCHS, Batches, Tiny, same, stop_at, train

from promptvision.engine.checkpoint import load_checkpoint, save_checkpoint
from promptvision.engine.interrupt import Pruned
from promptvision.engine.optim import build_optimizer, learning_rates
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import fit
from promptvision.errors import InputError


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
