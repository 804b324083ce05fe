"""The estimate of a sweep: each kind of cell is timed once, in a temporary folder, and scaled up."""

import time
from pathlib import Path

import pytest
import yaml

import coop
import vpt
from promptvision.sweep import estimate as module
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.cost import Cost
from promptvision.sweep.estimate import Estimate, estimate, total
from promptvision.sweep.jobs import plan
from promptvision.sweep.sample_run import STEPS, SampleRun, measure

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
MODULES = (("vpt", "vpt"), ("coop", "coop"))
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "4", "CACHE_DIR", ""]


@pytest.fixture
def table(tmp_path):
    """Write a benchmark of two rows that differ in the learning rate, and of another method."""
    row = {"CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml"), "OPTIM.EPOCHS": 10}
    zero = {"CONFIG": str(ROOT / "configs/coop/embedded_zero_shot.yaml")}
    content = {"RUNS": {"low": {**row, "OPTIM.LR": 0.01}, "high": row, "zero": zero}, "SEEDS": [1, 2]}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "b.yaml"


def test_each_kind_is_timed_once_and_counted_for_all_its_seeds(table, monkeypatch):
    jobs, seen = plan(load_cells(table), "out", QUICK, FAMILIES), []
    images = {"test images": (5.0, 2e6)}

    def timed(job, families):
        seen.append(job.name)
        step = 0.0 if job.name == "zero" else 0.5
        return Cost(1.0, step, batches=2, validation=0.1, disk=1e6, disk_per_step=100, shared=images, memory=3)

    monkeypatch.setattr(module, "timed", timed)
    found = estimate(jobs, FAMILIES)
    assert seen == ["high", "zero"] and (found.jobs, found.kinds, found.memory) == (6, 2, 3)
    assert found.seconds == pytest.approx(6 * 1.0 + 4 * 10 * 2 * 0.5 + 5.0)
    assert found.disk == pytest.approx(6 * 1e6 + 4 * 10 * 2 * 100 + 2e6)


def test_validations_and_searches_cost_time(table):
    jobs = plan(load_cells(table), "out", [*QUICK, "TRAIN.EVAL_EVERY", "5"], FAMILIES, ["low", "SEED=1"])
    cost = Cost(1.0, 0.5, batches=2, validation=0.1, disk=0, disk_per_step=0, shared={}, memory=3)
    assert total([(cost, jobs)])[0] == pytest.approx(1.0 + 20 * 0.5 + 2 * 0.1)


def test_an_estimate_in_words():
    lines = Estimate(jobs=1, kinds=1, seconds=5400, disk=2.5e6, memory=3_000_000_000, failures=[]).sentences(4)
    assert lines[0] == "1 cell with its seed is left, of 1 kind"
    assert lines[1].startswith("time: 1.50 hours (1:30:00); started now, all is done at 20"), "one job cannot be shared"
    assert lines[2:] == ["disk: 2.5 MB for runs and image features", "memory: up to 3.00 GB in each of 4 processes"]


def test_a_few_steps_are_measured(table, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    job = plan(load_cells(table), tmp_path / "out", [*QUICK, "CACHE_DIR", str(tmp_path)], FAMILIES, ["high"])[0]
    cost = measure(job.cfg, {"again": job.cfg}, MODULES)
    assert cost.batches == 1 and 0 < cost.step < 1 and cost.disk > 1000 and 50 < cost.disk_per_step < 1000
    assert cost.memory > 1e8 and 0 < cost.seconds < 60 and len(cost.shared) == 1, "both tests are on the same images"
    assert not (tmp_path / "out").exists() and STEPS < 10


def test_what_is_slow_only_the_first_time_is_not_scaled_with_the_images(table, tmp_path, monkeypatch):
    waits = [0.5]

    def check(self, decode):
        time.sleep(waits.pop() if waits else 0.001)
        return self.test_loader("test", ahead=False)

    monkeypatch.setattr(SampleRun, "check_test_images", check)
    job = plan(
        load_cells(table), tmp_path / "out", [*QUICK, "CACHE_DIR", str(tmp_path), "TEST.BATCH_SIZE", "9"], FAMILIES
    )[0]
    cost = measure(job.cfg, {}, MODULES)
    assert not waits and sum(seconds for seconds, _ in cost.shared.values()) < 2, "0.5 s for 9 of 540 images are 30 s"


def test_test_images_are_shared_by_runs_with_features_alone_whatever_they_train_on(table, tmp_path):
    words = [*QUICK, "CACHE_DIR", str(tmp_path), "INPUT.TEST", "center"]
    keys = []
    for more in (["INPUT.TRAIN", "center"], ["INPUT.TRAIN", "coop"], ["CACHE_DIR", ""]):
        job = plan(load_cells(table), tmp_path / "out", [*words, *more], FAMILIES, ["high"])[0]
        keys.append(set(measure(job.cfg, {}, MODULES).shared))
    assert keys[0] == keys[1] and len(keys[0]) == 1 and not keys[2]


def test_steps_of_many_batches_and_early_stopping_are_measured(table, tmp_path):
    more = ["OPTIM.ACCUMULATE", "9", "OPTIM.BATCH_SIZE", "1", "TRAIN.PATIENCE", "2", "TRAIN.EVAL_EVERY", "1"]
    job = plan(load_cells(table), tmp_path / "out", [*QUICK, *more], FAMILIES, ["high"])[0]
    cost = measure(job.cfg, {}, MODULES)
    assert cost.batches == 40 and cost.step > 0


@pytest.mark.slow
def test_the_tool_prints_an_estimate_and_leaves_nothing(tool, table, tmp_path):
    words = ["--config", table, "--output", tmp_path / "out", "--only", "zero", *QUICK]
    status, out, err = tool("sweep", *words, "--estimate")
    assert status == 0 and "2 cells with their seeds are left, of 1 kind" in out and "GB" in out, err
    assert not (tmp_path / "out").exists()
    assert tool("sweep", *words, "--only", "SEED=1")[0] == 0
    files = sorted((tmp_path / "out").rglob("*"))
    status, out, err = tool("sweep", *words, "--estimate")
    assert status == 0 and "1 cell with its seed is left, of 1 kind" in out, err
    assert sorted((tmp_path / "out").rglob("*")) == files
    status, out, err = tool(
        "sweep", *words, "--overwrite", "--estimate", "DATASET.NAME", "dtd", "DATASET.ROOT", tmp_path
    )
    assert status == 2 and "1 kind cannot run; zero: " in err and "dtd" in err
