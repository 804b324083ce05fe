"""Faults from outside a run: nothing that was computed is lost, and one sentence says what happened."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coop
import vpt
from promptvision.config import load_config
from promptvision.data import worker_restart as workers
from promptvision.data.decode import open_image
from promptvision.data.loader import TrainLoader
from promptvision.data.transforms import test_transform as make_test_transform
from promptvision.engine.checkpoint import load_checkpoint, load_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.sweep.completed import once

TRAIN = runpy.run_path(str(Path(__file__).parent / "test_train.py"))
train, same, stop_at, Batches = (TRAIN[name] for name in ("train", "same", "stop_at", "Batches"))
FAMILIES = {"vpt": vpt, "coop": coop}
DIGITS = """
METHOD: {FAMILY: vpt, NAME: linear}
DATASET: {NAME: digits, SHOTS: 2}
OPTIM: {LR: 0.5, EPOCHS: 4, WARMUP_EPOCHS: 0}
INPUT: {TRAIN: center, TEST: center}
TRAIN: {THREADS: 1, CACHE: "off"}
CACHE_DIR: ""
"""


def digits(tmp_path, *words):
    (tmp_path / "c.yaml").write_text(DIGITS)
    return load_config(tmp_path / "c.yaml", [*words, "OUTPUT_DIR", str(tmp_path / "run")], FAMILIES)


@contextlib.contextmanager
def file_system(folder, options):
    """A small file system of its own, where one may be mounted; else None."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full(folder, free):
    """A disk with `free` bytes left."""
    space = os.statvfs(folder)
    with (folder / "filler").open("wb", buffering=0) as filler:
        filler.write(bytes(max(0, space.f_bavail * space.f_frsize - free)))
    yield
    (folder / "filler").unlink()


@pytest.mark.fault("files")
@pytest.mark.parametrize("free", [0, 4096, 8192, 20480, 40960])
def test_a_disk_that_fills_up_costs_nothing_that_was_saved(tmp_path, free):
    whole = train(tmp_path / "whole", validate_every=1)
    with file_system(tmp_path / "disk", "size=512k") as mounted:
        folder = tmp_path / "disk" / "run"
        with pytest.raises(SystemExit):
            train(folder, loader=stop_at(1, 1), validate_every=1)
        saved = (folder / "last.ckpt").read_bytes()
        if mounted:
            with full(tmp_path / "disk", free), contextlib.suppress(InputError):
                train(folder, resume=True, validate_every=1)
        else:
            (folder / "metrics.jsonl").rename(folder / "kept")
            (folder / "metrics.jsonl").symlink_to("/dev/full")
            with RunFolder(folder, resume=True) as opened, pytest.raises(InputError, match="No space left"):
                opened.row(step=4)
            (folder / "kept").replace(folder / "metrics.jsonl")
        assert load_checkpoint(folder / "last.ckpt")["position"][:2] >= (1, 2) and saved
        same(train(folder, resume=True, validate_every=1), whole)


@pytest.mark.fault("files")
def test_a_full_disk_is_one_sentence(tmp_path, tool):
    with file_system(tmp_path / "disk", "size=64k") as mounted:
        (tmp_path / "c.yaml").write_text(DIGITS)
        folder = tmp_path / "disk/run"
        if not mounted:
            folder.mkdir()
            (folder / "metrics.jsonl").symlink_to("/dev/full")
        epochs = ["OPTIM.EPOCHS", "200"] if mounted else []
        status, _, err = tool("train", "--config", tmp_path / "c.yaml", *epochs, "OUTPUT_DIR", folder)
    assert status == 2 and "Traceback" not in err and "Logging error" not in err
    assert "cannot be written: No space left on device" in err


@pytest.mark.fault("files")
def test_an_output_folder_that_is_read_only_is_named(tmp_path, tool):
    with file_system(tmp_path / "out", "ro") as mounted:
        if not mounted:
            (tmp_path / "out").chmod(0o555)
        (tmp_path / "c.yaml").write_text(DIGITS)
        status, _, err = tool("train", "--config", tmp_path / "c.yaml", "OUTPUT_DIR", tmp_path / "out/run")
    assert status == 2 and "OUTPUT_DIR" in err and "cannot be written: " in err and "Traceback" not in err


@pytest.mark.fault("files")
def test_a_folder_that_is_gone_for_a_while_is_named_and_the_run_goes_on_later(tmp_path):
    whole, folder = train(tmp_path / "whole"), tmp_path / "parts"
    lose = Before(Batches(), lambda epoch: folder.rename(tmp_path / "away") if epoch == 2 else None)
    with pytest.raises(InputError, match="last.ckpt cannot be written: No such file or directory"):
        train(folder, loader=lose)
    (tmp_path / "away").rename(folder)
    same(train(folder, resume=True), whole)


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


class Before:
    """A loader, and what happens before an epoch."""

    def __init__(self, loader, happens):
        self.loader, self.happens = loader, happens

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        self.happens(epoch)
        return self.loader.epoch(epoch, start)


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
def test_a_changed_setting_of_training_is_refused_and_leaves_everything(tmp_path):
    once(digits(tmp_path), FAMILIES)
    (tmp_path / "run/result.json").unlink()
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.name != "log.txt"}
    cfg = digits(tmp_path, "OPTIM.MOMENTUM", "0.5")
    with (
        RunFolder(cfg.OUTPUT_DIR, resume=True) as folder,
        pytest.raises(InputError, match="last.ckpt does not fit this run: its OPTIM.MOMENTUM is 0.9, here it is 0.5"),
    ):
        run(cfg, FAMILIES, folder, progress=False)
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.name != "log.txt"}


@pytest.mark.fault("files")
def test_without_a_checkpoint_nothing_of_another_run_stays(tmp_path):
    """Else a run that is killed early would leave its config beside another's result."""
    once(digits(tmp_path), FAMILIES)
    (tmp_path / "run/last.ckpt").unlink()
    with RunFolder(tmp_path / "run", resume=True) as folder:
        folder.write_config("SEED: 9")
    assert {file.name for file in (tmp_path / "run").iterdir()} == {".lock", "config.yaml", "log.txt"}


@pytest.mark.fault("files")
def test_half_written_files_of_a_killed_run_are_removed(tmp_path):
    for name in (".last.ckpt.abc123", ".result.json.x", ".lock", ".mine", "mine.ckpt.x"):
        (tmp_path / name).write_text("half")
    with RunFolder(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {".lock", ".mine", "mine.ckpt.x", "log.txt"}


def best_run(tmp_path):
    """A run stopped by a signal after its best epoch was kept."""
    words = ("TRAIN.KEEP", "best", "TRAIN.EVAL_EVERY", "1")
    cfg = digits(tmp_path, *words)
    with RunFolder(cfg.OUTPUT_DIR) as folder:
        run(cfg, FAMILIES, folder, progress=False)
    path = tmp_path / "run/last.ckpt"
    state = load_checkpoint(path)
    assert state["best"]["accuracy"] > 0
    (tmp_path / "run/result.json").unlink()
    return cfg, tmp_path / "run/best.safetensors"


def go_on(cfg):
    with RunFolder(cfg.OUTPUT_DIR, resume=True) as folder:
        return run(cfg, FAMILIES, folder, progress=False)


@pytest.mark.fault("files")
def test_a_best_epoch_that_is_gone_or_damaged_is_named(tmp_path):
    cfg, best = best_run(tmp_path)
    whole = best.read_bytes()
    for content, said in (
        (None, "best.safetensors is missing, but an epoch with .* % was kept; train the run again"),
        (whole[:-5], "best.safetensors is damaged"),
        (whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], "best.safetensors is damaged"),
        (whole.replace(b"accuracy", b"occuracy"), "best.safetensors is damaged"),
    ):
        best.unlink(missing_ok=True)
        if content is not None:
            best.write_bytes(content)
        with pytest.raises(InputError, match=said):
            go_on(cfg)
    best.write_bytes(whole)
    assert go_on(cfg)["best_epoch"] >= 0


@pytest.mark.fault("files")
def test_every_changed_byte_of_learned_tensors_is_noticed(tmp_path):
    once(digits(tmp_path), FAMILIES)
    path = tmp_path / "run/learned.safetensors"
    whole = path.read_bytes()
    state, metadata = load_learned(path)
    assert metadata["family"] == "vpt" and len(whole) > 1000
    for place in [*range(0, 600, 7), *range(600, len(whole), 501)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with contextlib.suppress(InputError):
            again, other = load_learned(path)
            assert other == metadata and again.keys() == state.keys()
            assert all(torch.equal(again[name], state[name]) for name in state)


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
        TRAIN["wait_for_rows"](tmp_path / "run/metrics.jsonl", 2)
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
