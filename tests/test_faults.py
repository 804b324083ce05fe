"""Faults from outside a run: images that vanish, workers that die, clocks that jump, signals, other settings."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from digit_runs import DIGITS, Before, digits
from PIL import Image
from training import Batches, same, stop_at, train, wait_for_rows

import coop
import vpt
from promptvision.data import worker_restart as workers
from promptvision.data.decode import open_image
from promptvision.data.loader import TrainLoader
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.engine.checkpoint import load_checkpoint, load_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.sweep.completed import once

FAMILIES = {"vpt": vpt, "coop": coop}


def test_a_validation_that_is_repeated_is_told_once(tmp_path):
    """Stopped after an epoch's last step, then killed between its validation and the next checkpoint."""

    def crash(epoch, batch):
        if epoch == 2:
            raise ZeroDivisionError

    options = {"checkpoint_every": 4}
    whole = train(tmp_path / "whole", **options)
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", loader=stop_at(1, 2), **options)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "parts", loader=Batches(crash), resume=True, **options)
    assert (tmp_path / "parts/metrics.jsonl").read_text().count('"val"') == 1
    same(train(tmp_path / "parts", resume=True, **options), whole)


def test_checkpoints_within_an_epoch(tmp_path):
    def crash(epoch, batch):
        if (epoch, batch) == (0, 2):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "parts", loader=Batches(crash), checkpoint_seconds=1e-9)
    assert load_checkpoint(tmp_path / "parts/last.ckpt")["position"][:2] == (0, 2)
    same(train(tmp_path / "parts", resume=True), train(tmp_path / "whole"))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for n in range(24):
        pixels = np.random.default_rng(n).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{n}.png")
    return tmp_path / "photos"


def reader(photos, opened=open_image, **options):
    items = [(f"{n}.png", n % 2, "ab"[n % 2]) for n in range(24)]
    transform = make_test_transform("center", 2, (0.5,) * 3, (0.25,) * 3)
    options = {"batch_size": 8, "seed": 1, **options}
    return TrainLoader(items, partial(opened, str(photos)), transform, **options)


@pytest.mark.fault("files")
@pytest.mark.parametrize("count", [0, 2])
def test_a_image_that_vanishes_costs_no_step_before_it(tmp_path, photos, count):
    loader = reader(photos, workers=count)
    whole = train(tmp_path / "whole", loader=loader)
    lost = photos / loader.items[loader.batches(1)[2][0]][0]
    vanish = Before(loader, lambda epoch: lost.rename(tmp_path / "away") if epoch == 1 else None)
    with pytest.raises(InputError, match=f"{lost.name} cannot be read: No such file"):
        train(tmp_path / "parts", loader=vanish, checkpoint_every=9)
    assert load_checkpoint(tmp_path / "parts/last.ckpt")["position"][:2] == (1, 2)
    (tmp_path / "away").rename(lost)
    same(train(tmp_path / "parts", loader=loader, resume=True), whole)


def dies_once(marker, root, path):
    """Opens an image; the first process to open number 7 is killed."""
    if path == "7.png":
        with contextlib.suppress(FileExistsError):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
    return open_image(root, path)


@pytest.mark.fault("files")
def test_a_worker_that_is_killed_is_replaced_exactly(tmp_path, photos, caplog):
    whole = train(tmp_path / "whole", loader=reader(photos))
    deadly = reader(photos, partial(dies_once, str(tmp_path / "killed")), workers=2)
    handler = signal.getsignal(signal.SIGCHLD)
    same(train(tmp_path / "deadly", loader=deadly), whole)
    assert (tmp_path / "killed").exists() and signal.getsignal(signal.SIGCHLD) == handler
    assert "a worker that decodes images died: new workers continue at batch" in caplog.text


@pytest.mark.fault("files")
def test_workers_that_die_again_and_again_end_the_run_in_one_sentence(photos, monkeypatch):
    monkeypatch.setattr(workers, "DEATHS", 1)

    def die(root, path):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InputError, match="died 1 times in a row, .* use fewer: TRAIN.WORKERS"):
        list(reader(photos, die, workers=1).epoch(0))


@pytest.mark.fault("files")
@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, jump):
    whole = train(tmp_path / "whole")
    true, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: true() + jump * (next(calls) % 5))
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", loader=stop_at(1, 1))
    found = train(tmp_path / "parts", resume=True)
    same(found, whole)
    assert 0 <= found[2]["seconds"] < 600
    cfg = digits(tmp_path, "CACHE_DIR", str(tmp_path / "cache"))
    assert once(cfg, FAMILIES)["seconds"] >= 0


def test_a_changed_config_of_an_unfinished_run_takes_the_learned_tensors(tmp_path):
    first = once(digits(tmp_path), FAMILIES)
    (tmp_path / "run/result.json").unlink()
    learned = (tmp_path / "run/learned.safetensors").read_bytes()
    cfg = digits(tmp_path, "TEST.SPLIT", "val")
    with RunFolder(cfg.OUTPUT_DIR, resume=True) as folder:
        second = run(cfg, FAMILIES, folder, progress=False)
    assert (first["split"], second["split"]) == ("test", "val")
    assert "SPLIT: val" in (tmp_path / "run/config.yaml").read_text()
    state = load_learned(tmp_path / "run/learned.safetensors")[0]
    (tmp_path / "old").write_bytes(learned)
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_learned(tmp_path / "old")[0].items())
    assert once(cfg, FAMILIES)["split"] == "val"
    with pytest.raises(InputError, match="TEST.SPLIT was 'val', here it is 'test'"):
        once(digits(tmp_path), FAMILIES)


@pytest.mark.fault("files")
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_everybody_while_workers_read(tmp_path, number, status):
    """As Ctrl-C in a terminal and the end of a batch job do: every process of the run gets it."""
    (tmp_path / "c.yaml").write_text(DIGITS)
    words = ["--config", "c.yaml", "--resume", "auto", "OPTIM.EPOCHS", "60", "TRAIN.WORKERS", "2", "OUTPUT_DIR", "run"]
    program = [sys.executable, str(Path(__file__).parents[1] / "tools/train.py"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(program, cwd=tmp_path, **pipes) as process:
        wait_for_rows(tmp_path / "run/metrics.jsonl", 2)
        os.killpg(process.pid, number)
        said = process.communicate()[0]
    assert process.returncode == status, said
    assert "Traceback" not in said and "resume with --resume auto" in " ".join(said.split())
    assert load_checkpoint(tmp_path / "run/last.ckpt")["position"][0] >= 0


@pytest.mark.fault("files")
def test_sigterm_outside_of_training_ends_with_143_too(tmp_path):
    code = "import os, signal\nfrom promptvision.cli import one_sentence\n"
    code += "with one_sentence():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
    code += "    finally:\n        print('cleaned up')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "cleaned up\n", "")


def test_the_same_bits_again_and_the_result_tells_on_what(tmp_path):
    results = []
    for name in ("a", "b"):
        cfg = digits(tmp_path, "TRAIN.DETERMINISTIC", "True")
        with RunFolder(tmp_path / name) as folder:
            results.append(run(cfg, FAMILIES, folder, progress=False))
    assert (tmp_path / "a/learned.safetensors").read_bytes() == (tmp_path / "b/learned.safetensors").read_bytes()
    found = results[0]["environment"]
    assert found["deterministic"] is True and found["computes_on"] == "cpu" and found["tf32"] is False
    assert results[0]["precision"] == "fp32" and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    once(digits(tmp_path), FAMILIES)
    assert not torch.are_deterministic_algorithms_enabled()
