"""A loss that rises early is reported in log, result and tables, and training goes on."""

import itertools
import logging
import math
import random

import pytest
import yaml
from small_run import config

import vpt
from promptvision.config.families import FAMILIES
from promptvision.engine.losses import EarlyLoss
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.report.report import load_report
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.local import do_here

WILD = ["OPTIM.LR", "30", "OPTIM.NAME", "sgd", "OPTIM.WARMUP_EPOCHS", 1, "OPTIM.WARMUP_LR", 0.001]
"""A head that learns nothing in its first epoch and too much in its second."""
SAID = "Training may diverge: the mean loss of epoch 2 is "


def rows(*epochs):
    return [{"epoch": epoch, "loss": loss} for epoch, losses in enumerate(epochs) for loss in losses]


def train(cfg, resume=False):
    with RunFolder(cfg.OUTPUT_DIR, resume=resume) as folder:
        return run(cfg, FAMILIES, folder, progress=False)


CASES = {
    "second step": (rows([2.3, 60, 50, 70]), 32, "epoch 1 is 45.58, more than twice its start, 2.3;"),
    "third epoch": (rows([2.3, 2], [2, 2], [9, 5]), 32, "epoch 3 is 7, more than twice its start, 2.3;"),
    "small batches": (rows([2, 3, 2, 3], [30, 30]), 8, "epoch 2 is 30, more than twice its start, 2.5;"),
    "no time to see": (rows([2.3]), 32, ""),
    "later": (rows([2.3], [2], [2], [60]), 32, ""),
    "below a guess": (rows([0.1, 0.3], [0.3, 0.3]), 32, ""),
    "less than twice": (rows([2.3], [4.59]), 32, ""),
    "validation": (rows([2.3]) + [{"epoch": 0, "val": {"loss": 60}}], 32, ""),
    "an easy first image": (rows([0.1, 4, 5, 3] * 10), 1, ""),
    "a start below zero": (rows([-0.1], [0.2], [2.2]), 32, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_counts_as_a_rise(case):
    metrics, images, said = CASES[case]
    found = EarlyLoss(images, 10, 0.02).sentence(metrics)
    assert said in found and bool(found) == bool(said)
    assert not found or found.endswith("try a smaller rate, such as OPTIM.LR 0.002")


@pytest.mark.parametrize("images", [1, 4, 32])
@pytest.mark.parametrize("mean", [0.2, 1.0, 4.6, 6.0])
def test_noise_alone_is_no_rise(images, mean):
    """Images with exponential losses around `mean`, which training does not change, in 200 runs of 100 classes."""
    draw, told = random.Random(0), 0
    for _ in range(200):
        losses = [math.fsum(draw.expovariate(1 / mean) for _ in range(images)) / images for _ in range(150)]
        told += bool(EarlyLoss(images, 100, 0.02).sentence(rows(losses[:50], losses[50:100], losses[100:])))
    assert told == 0


def test_a_run_that_diverges_says_so_and_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result = train(config(tmp_path, *WILD))
    (record,) = [each for each in caplog.records if "diverge" in each.getMessage()]
    assert record.getMessage() == result["diverged"] and result["diverged"].startswith(SAID) and result["epochs"] == 6
    assert result["diverged"].endswith("OPTIM.LR 3") and result["diverged"] in (tmp_path / "run/log.txt").read_text()
    (tmp_path / "tame").mkdir()
    assert "diverged" not in train(config(tmp_path / "tame", "OPTIM.LR", 0.01))


@pytest.mark.parametrize("stop", [5, 8])  # in the epoch whose loss rises, and in the next one
def test_a_resumed_run_says_the_same(stop, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = train(config(tmp_path / "whole", *WILD))
    loss, steps = vpt.METHODS["linear"].loss, itertools.count(1)

    def stopping(method, images, labels):
        if next(steps) == stop:
            raise InputError("stopped")
        return loss(method, images, labels)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="stopped"):
        patch.setattr(vpt.METHODS["linear"], "loss", stopping)
        train(config(tmp_path, *WILD, "TRAIN.CHECKPOINT_EVERY", 1))
    resumed = train(config(tmp_path, *WILD, "TRAIN.CHECKPOINT_EVERY", 1), resume=True)
    assert "Resumed from" in (tmp_path / "run/log.txt").read_text()
    assert resumed["diverged"] == whole["diverged"]


def test_runs_in_a_stack_and_their_table_say_the_same(tmp_path):
    config(tmp_path, *WILD)
    settings = dict(zip(WILD[::2], WILD[1::2], strict=True))
    cells = {"wild": settings, "tame": {**settings, "OPTIM.LR": 0.01}}
    content = {
        "RUNS": {name: {"CONFIG": str(tmp_path / "c.yaml"), **more} for name, more in cells.items()},
        "SEEDS": [1],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    found = []
    for stack in (1, 2):
        jobs = plan(load_cells(tmp_path / "sweep.yaml"), tmp_path / f"stack{stack}", [], FAMILIES)
        events = [event for event in do_here(jobs, FAMILIES, stack) if event.outcome]
        found.append({jobs[each.number].name: each.outcome.results[0] for each in events})
    assert found[1]["wild"]["stacked"] == 2 and "diverged" not in found[1]["tame"]
    assert found[0]["wild"]["diverged"] == found[1]["wild"]["diverged"]
    (table,) = load_report(tmp_path / "stack2").tables
    assert [note for note in table.notes if "twice its start" in note]
