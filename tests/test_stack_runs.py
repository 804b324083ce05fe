"""Runs that train together write what each would alone; the others train run by run."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

import coop
import vpt
from promptvision.engine.checkpoint import load_learned
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.experiment.feature_cache import FeatureCache
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.local import do_here
from promptvision.sweep.stack import groups_of

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
FEW = ["DATASET.NAME", "digits", "OPTIM.EPOCHS", 4, "TRAIN.CHECKPOINT_EVERY", 2]


def cells(tmp_path, place, rows, seeds=(1, 2), more=()):
    """Jobs of a benchmark with these rows, in a folder of their own."""
    content = {"RUNS": {name: {"CONFIG": str(ROOT / config), **row} for name, (config, row) in rows.items()}}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({**content, "SEEDS": list(seeds)}, sort_keys=False))
    return plan(load_cells(tmp_path / "b.yaml"), tmp_path / place, [*FEW, *more], FAMILIES)


def did(jobs, stack):
    """Do all jobs and return the last outcome of each."""
    outcomes = [None] * len(jobs)
    for event in do_here(jobs, FAMILIES, stack):
        outcomes[event.number] = event.outcome or outcomes[event.number]
    return outcomes


def files(job):
    folder = Path(job.cfg.OUTPUT_DIR)
    return load_learned(folder / "learned.safetensors")[0], read_rows(folder / "metrics.jsonl")


def check_same(jobs, others):
    """Learned tensors, losses and rates are equal to 1e-5, and so are the steps and the epochs of validations."""
    for job, other in zip(jobs, others, strict=True):
        (tensors, rows), (wanted, wanted_rows) = files(job), files(other)
        assert tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():
            most = 1e-5 * tensor.float().abs().max().item()
            torch.testing.assert_close(tensors[name], tensor, atol=most, rtol=1e-5, msg=f"{job.title}: {name}")
        assert [row.keys() for row in rows] == [row.keys() for row in wanted_rows]
        for row, wanted_row in zip(rows, wanted_rows, strict=True):
            assert (row["step"], row["epoch"], row.get("lr")) == tuple(map(wanted_row.get, ("step", "epoch", "lr")))
            assert row.get("loss", 0.0) == pytest.approx(wanted_row.get("loss", 0.0), rel=1e-5)


TASK_RES, COOP = "configs/coop/embedded_task_res.yaml", "configs/coop/embedded.yaml"
TASKS = {
    "TaskRes": (TASK_RES, {"DATASET.SHOTS": 1, "OPTIM.LR": 0.3}),
    "low": (TASK_RES, {"DATASET.SHOTS": 1, "OPTIM.LR": 0.1}),
}
TASKS["decay"] = (TASK_RES, {"DATASET.SHOTS": 2, "OPTIM.LR": 0.3, "OPTIM.WEIGHT_DECAY": 0.1})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "more"),
    [
        (TASKS, ("OPTIM.NAME", "sgd")),
        (
            {"TaskRes": TASKS["TaskRes"]},
            ("TRAIN.EVAL_EVERY", 1, "TRAIN.KEEP", "best", "TRAIN.PATIENCE", 1, "OPTIM.CLIP", 0.01),
        ),
        ({"CoOp": (COOP, {"DATASET.SHOTS": 1})}, ("CACHE_DIR", "")),
    ],
)
def test_runs_together_write_what_each_would_alone(rows, more, tmp_path):
    jobs, others = (cells(tmp_path, place, rows, more=more) for place in ("together", "alone"))
    together, alone = did(jobs, 10), did(others, 1)
    check_same(jobs, others)
    for ours, theirs in zip(together, alone, strict=True):
        (result,), (wanted,) = ours.results, theirs.results
        assert result.pop("stacked") >= 2 and result.keys() == wanted.keys()
        assert result["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-9)
        assert result["epochs"] == wanted["epochs"] and result["seconds"] > 0
    for job in jobs:
        log = (Path(job.cfg.OUTPUT_DIR) / "log.txt").read_text()
        assert log.count("Started: ") == log.count("Finished: ") == 1


@pytest.mark.slow
def test_runs_without_steps_share_what_they_read(tmp_path, monkeypatch):
    rows = {"linear probe": ("configs/coop/embedded_linear_probe.yaml", {"DATASET.SHOTS": 1})}
    made, init = [], FeatureCache.__init__
    monkeypatch.setattr(FeatureCache, "__init__", lambda self, *a, **k: made.append(self) or init(self, *a, **k))
    counts, found = [], []
    for stack in (1, 10):
        made.clear()
        found.append([outcome.results[0] for outcome in did(cells(tmp_path, f"{stack}", rows), stack)])
        counts.append(len(made))
    assert [each["accuracy"] for each in found[0]] == [each["accuracy"] for each in found[1]]
    assert counts == [2, 1]


@pytest.mark.slow
def test_a_run_that_diverges_fails_alone(tmp_path):
    rows = {**TASKS, "mad": (TASK_RES, {"DATASET.SHOTS": 1, "OPTIM.LR": 1e6, "OPTIM.WEIGHT_DECAY": 1e6})}
    jobs = cells(tmp_path, "together", rows, more=["OPTIM.NAME", "sgd", "OPTIM.WARMUP_EPOCHS", 0])
    outcomes = did(jobs, 10)
    assert [bool(outcome.failures) for outcome in outcomes] == [False] * 6 + [True] * 2
    assert "so training stopped" in outcomes[-1].failures[0]


@pytest.mark.slow
def test_a_stack_that_is_stopped_continues_as_a_stack(tmp_path, monkeypatch):
    jobs, others = (cells(tmp_path, place, TASKS, more=["OPTIM.NAME", "sgd"]) for place in ("together", "alone"))
    row = RunFolder.row
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        rows = []

        def stopping(folder, **values):
            rows.append(row(folder, **values))
            if len(rows) == 9:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(RunFolder, "row", stopping)
        did(jobs, 10)
    assert stop.value.code == 128 + signal.SIGTERM
    assert all((Path(job.cfg.OUTPUT_DIR) / "last.ckpt").exists() for job in jobs)
    assert not any(list(tmp_path.rglob("result.json")))
    outcomes = did(jobs, 10)
    assert all(outcome.results[0]["stacked"] >= 2 for outcome in outcomes)
    did(others, 1)
    check_same(jobs, others)
    kept = [(Path(job.cfg.OUTPUT_DIR) / "result.json").stat().st_mtime_ns for job in jobs]
    did(jobs, 10)
    assert kept == [(Path(job.cfg.OUTPUT_DIR) / "result.json").stat().st_mtime_ns for job in jobs]


def test_what_trains_together(tmp_path, caplog):
    rows = {
        **TASKS,
        "CoOp": (COOP, {}),
        "longer": (COOP, {"METHOD.OPTIONS.N_CTX": 4}),
        "CoCoOp": ("configs/coop/embedded_cocoop.yaml", {}),
        "stream": ("configs/vpt/embedded_continual.yaml", {}),
    }
    jobs = cells(tmp_path, "out", rows)
    with caplog.at_level("INFO", "promptvision"):
        groups = groups_of(jobs, FAMILIES, 4)
    assert groups == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9], [10], [11], [12], [13]]
    assert [record.message for record in caplog.records] == [
        "CoCoOp trains run by run: the steps of cocoop cannot be computed together",
        "stream trains run by run: a stream of tasks (CONTINUAL) is learned task by task",
    ]
    assert groups_of(jobs, FAMILIES, 1) == [[number] for number in range(14)]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("TRAIN.PRECISION", "bf16", "rounds otherwise in a step of many runs"),
        ("TRAIN.PRECISION", "fp16", "rounds otherwise in a step of many runs"),
        ("COMPUTE.CHUNK", 5, "computes parts of a step again"),
        ("COMPUTE.CHUNK", "auto", "computes parts of a step again"),
        ("OPTIM.CLASS_WEIGHTS", "inverse", "gives each run its own loss"),
    ],
)
def test_settings_with_which_runs_train_alone(key, value, reason, tmp_path, caplog):
    jobs = cells(tmp_path, "out", {"TaskRes": TASKS["TaskRes"]}, more=(key, value))
    with caplog.at_level("INFO", "promptvision"):
        assert groups_of(jobs, FAMILIES, 4) == [[0], [1]]
    (record,) = caplog.records
    assert record.message == f"TaskRes trains run by run: {key}{record.message.partition(key)[2]}"
    assert reason in record.message


@pytest.mark.slow
def test_the_runs_of_a_grid_train_together(tool, tmp_path):
    grid = {"PROTOCOL": "vtab", "GRID": {"OPTIM.LR": [0.5, 0.1], "OPTIM.WEIGHT_DECAY": [0.01, 0]}, "SEEDS": [1, 2]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    words = ["--grid", tmp_path / "grid.yaml", "--config", ROOT / "configs/vpt/embedded_linear.yaml", "--stack"]
    more = ["DATASET.NAME", "digits", "OPTIM.EPOCHS", 2, "OPTIM.WARMUP_EPOCHS", 0]
    for stack in (1, 6):
        assert tool("tune", *words, stack, *more, "OUTPUT_DIR", tmp_path / f"{stack}")[0] == 0
    ours, theirs = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("6", "1"))
    assert ours["tuning"] == theirs["tuning"] and ours["chosen"] == theirs["chosen"]
    stacked = [json.loads(path.read_text()).get("stacked") for path in sorted((tmp_path / "6").rglob("result.json"))]
    assert stacked == [2, 2, 4, 4, 4, 4]
    status, _, err = tool("tune", *words, 6, "--optuna", 2, *more, "OUTPUT_DIR", tmp_path / "optuna")
    assert status == 2 and "--stack trains a whole grid together: leave out --optuna" in err
