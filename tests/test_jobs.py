"""Jobs of a benchmark: shared backbones, workers that die, a sweep that is stopped; none of it changes a result."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import coop
import vpt
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import Outcome, do, done, plan
from promptvision.sweep.local import Event, Queue, do_here, do_in_workers
from promptvision.sweep.progress import Board
from promptvision.sweep.shared_backbone import sharing

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", 1, "OPTIM.EPOCHS", 1, "CACHE_DIR", ""]
ROWS = {
    "full": {"CONFIG": "vpt/embedded_full.yaml"},
    "LoRA": {"CONFIG": "vpt/embedded_lora.yaml"},
    "VPT-deep": {"CONFIG": "vpt/embedded.yaml"},
    "CoOp": {"CONFIG": "coop/embedded.yaml"},
    "CoOp again": {"CONFIG": "coop/embedded.yaml", "METHOD.OPTIONS.CTX_INIT": "a photo of a"},
}


@pytest.fixture
def jobs(tmp_path):
    """`jobs("out", "full", "LoRA")` plans these rows."""

    def make(output, *names, more=(), seeds=(1,)):
        runs = {name: {**ROWS[name], "CONFIG": str(ROOT / "configs" / ROWS[name]["CONFIG"])} for name in names}
        path = tmp_path / "benchmark.yaml"
        path.write_text(yaml.safe_dump({"RUNS": runs, "SEEDS": list(seeds)}))
        return plan(load_cells(path), tmp_path / output, [*QUICK, *more], FAMILIES)

    return make


def learned(jobs):
    return [load_file(Path(job.cfg.OUTPUT_DIR) / "learned.safetensors") for job in jobs]


def same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_runs_that_share_a_backbone_end_as_separate_ones(jobs):
    names = ("full", "LoRA", "VPT-deep", "CoOp", "CoOp again")
    together, apart = jobs("together", *names), jobs("apart", *names)
    assert all(event.outcome is None or not event.outcome.failures for event in do_here(together, FAMILIES))
    assert all(not do(job, FAMILIES).failures for job in apart)
    same(learned(together), learned(apart))


def test_a_backbone_is_loaded_once_unless_a_run_changed_it():
    shared, key = sharing(FAMILIES)["vpt"], ("embedded", "default", 0, "timm", "default")
    first, second = shared.load_backbone(*key), shared.load_backbone(*key)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert first is not second and all(one.data_ptr() == other.data_ptr() for one, other in pairs)
    first.attached = torch.nn.Linear(1, 1)
    next(first.parameters()).requires_grad_(True)
    third = shared.load_backbone(*key)
    assert not hasattr(third, "attached") and next(third.parameters()).data_ptr() == pairs[0][0].data_ptr()
    with torch.no_grad():
        pairs[0][0].add_(1.0)
    fresh = shared.load_backbone(*key)
    assert next(fresh.parameters()).data_ptr() != pairs[0][0].data_ptr()
    torch.testing.assert_close(next(fresh.parameters()) + 1.0, pairs[0][0])


@pytest.mark.parametrize(
    "change",
    [
        lambda backbone: backbone.requires_grad_(True),
        lambda backbone: backbone.add_module("attached", torch.nn.Linear(1, 1)),
        lambda backbone: backbone.blocks[0].register_forward_hook(lambda *call: None),
    ],
)
def test_runs_that_train_together_have_one_backbone_unless_one_changes_it(change):
    shared, key = sharing(FAMILIES, unchanged=True)["vpt"], ("embedded", "default", 0, "timm", "default")
    first = shared.load_backbone(*key)
    assert shared.load_backbone(*key) is first
    change(first)
    other = shared.load_backbone(*key)
    assert other is not first and shared.load_backbone(*key) is other


@pytest.mark.fault("files")
@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_job_done_again(jobs):
    planned = jobs("workers", "VPT-deep", "CoOp", more=["OPTIM.EPOCHS", 3])
    events, killed = [], []
    for event in do_in_workers(planned, FAMILIES, 2):
        events.append(event)
        if event.outcome is None and not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)
    died = [event for event in events if event.outcome and event.outcome.failures]
    assert len(died) == 1 and died[0].again and "its process died (exit status -9)" in died[0].outcome.failures[0]
    assert [done(job) is not None for job in planned] == [True, True] and not multiprocessing.active_children()
    alone = jobs("alone", "VPT-deep", "CoOp", more=["OPTIM.EPOCHS", 3])
    assert all(not do(job, FAMILIES).failures for job in alone)
    same(learned(planned), learned(alone))


def test_a_job_is_done_when_its_config_is(jobs):
    (job,) = jobs("out", "CoOp")
    folder = Path(job.cfg.OUTPUT_DIR)
    folder.mkdir(parents=True)
    assert done(job) is None
    assert not do(job, FAMILIES).failures and done(job).results[0]["seed"] == 1
    (other,) = jobs("out", "CoOp", more=["OPTIM.LR", 0.5])
    assert done(other) is None
    (folder / "result.json").unlink()
    assert done(job) is None


def test_failures_are_tried_again_after_all_others():
    queue, bad, good = Queue(["a", "b"]), Outcome([], ["broken"]), Outcome([{}], [])
    order = []
    while (number := queue.next()) is not None:
        order.append((number, queue.finished(number, bad if number == 0 else good).again))
    assert order == [(0, True), (1, False), (0, False)]


def test_the_board_tells_what_is_left(jobs):
    planned = jobs("out", "CoOp", "full", seeds=(1, 2))
    finished = Outcome([{"accuracy": 50.0, "seconds": 10.0}], [])
    board = Board(planned, [finished, None, None, None], at_once=2)
    assert board.line() == "1 of 4 done, 0 failed, 0 running, about 0:00:15 left"
    assert re.fullmatch(r", until 20\d\d-\d\d-\d\d \d\d:\d\d", board.finish()), board.finish()
    board.note(Event(1))
    board.note(Event(1, Outcome([{"accuracy": 70.0}], [])))
    board.note(Event(2))
    board.note(Event(2, Outcome([], ["broken"]), again=True))
    assert board.line().startswith("2 of 4 done, 0 failed, 0 running")
    cells = [list(column.cells) for column in board.table().columns]
    assert cells == [["CoOp", "full"], ["2/2", "0/2"], ["60.00", ""], ["", "1 failed"]]


@pytest.mark.fault("files")
def test_ctrl_c_stops_all_and_the_sweep_goes_on(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text(
        yaml.safe_dump({"RUNS": {"CoOp": {"CONFIG": str(ROOT / "configs/coop/embedded.yaml")}}, "SEEDS": [1, 2]})
    )
    words = ["--config", path, "--output", tmp_path / "out", "--jobs", "2", *QUICK, "OPTIM.EPOCHS", "120"]
    words = [sys.executable, ROOT / "tools/sweep.py", *words]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    running = subprocess.Popen(list(map(str, words)), cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    rows = [tmp_path / f"out/CoOp/seed{seed}/metrics.jsonl" for seed in (1, 2)]
    deadline = time.monotonic() + 240
    while not any(row.exists() and row.stat().st_size for row in rows):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130 and "interrupted" in err and "Traceback" not in err, err
    begun = [row for row in rows if row.exists() and row.stat().st_size]
    assert begun and all((row.parent / "last.ckpt").exists() for row in begun)
    assert not all((row.parent / "result.json").exists() for row in rows)
    before = [row.read_bytes() for row in begun]
    again = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    found = [[json.loads(line)["step"] for line in row.read_text().splitlines()] for row in rows]
    assert found == [list(range(120))] * 2
    assert all(row.read_bytes().startswith(text) for row, text in zip(begun, before, strict=True))


@pytest.mark.fault("files")
def test_workers_end_with_a_killed_sweep_and_the_next_one_waits_for_them(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text(yaml.safe_dump({"RUNS": {"CoOp": {"CONFIG": str(ROOT / "configs/coop/embedded.yaml")}}}))
    words = ["--config", path, "--output", tmp_path / "out", "--jobs", "2", *QUICK, "OPTIM.EPOCHS", "400"]
    words = list(map(str, [sys.executable, ROOT / "tools/sweep.py", *words]))
    run = tmp_path / "out/CoOp/seed1"
    running, deadline = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE), time.monotonic() + 240
    while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.kill()
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    said = (run / "log.txt").read_text()
    assert "Stopped in epoch" in said and "Resumed from" in said
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(400))


SIGNALLED_TWICE = """
import os, runpy, signal, sys
from promptvision.sweep.local import Worker

stop = Worker.stop

def signalled(worker):  # the second signal comes before the first worker is told
    Worker.stop = stop
    os.kill(os.getpid(), signal.SIGTERM)
    stop(worker)

Worker.stop = signalled
runpy.run_path(sys.argv.pop(0) and sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_sweep_that_is_stopped_twice_stops_all_its_workers(tmp_path):
    path = tmp_path / "b.yaml"
    row = {"CONFIG": str(ROOT / "configs/coop/embedded.yaml")}
    path.write_text(yaml.safe_dump({"RUNS": {"CoOp": row}, "SEEDS": [1, 2]}))
    words = ["--config", path, "--output", tmp_path / "out", "--jobs", "2", *QUICK, "OPTIM.EPOCHS", "20000"]
    command = [sys.executable, "-c", SIGNALLED_TWICE, ROOT / "tools/sweep.py", *words]
    sweep = subprocess.Popen(list(map(str, command)), cwd=ROOT)
    logs, deadline = [tmp_path / f"out/CoOp/seed{seed}/log.txt" for seed in (1, 2)], time.monotonic() + 240
    while not all((log.parent / "metrics.jsonl").exists() for log in logs):
        assert time.monotonic() < deadline and sweep.poll() is None
        time.sleep(0.05)
    sweep.terminate()
    assert sweep.wait(60) == 143
    assert all("Stopped in epoch" in log.read_text() for log in logs)


@pytest.mark.fault("files")
def test_a_run_that_another_process_trains_is_waited_for(jobs):
    (job,) = jobs("out", "CoOp")
    hold = "import sys, time; from promptvision.engine.run_folder import RunFolder\n"
    hold += f"with RunFolder({job.cfg.OUTPUT_DIR!r}): print(flush=True); time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert not do(job, FAMILIES).failures
        assert other.wait() == 0
    assert done(job)
