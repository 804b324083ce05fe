"""Disks and folders that fail a run: nothing that was saved is lost, and what is damaged is named."""

import contextlib
import os
import subprocess

import pytest
import torch
from digit_runs import DIGITS, Before, digits
from training import Batches, same, stop_at, train

import coop
import vpt
from promptvision.engine.checkpoint import load_checkpoint, load_learned
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run
from promptvision.sweep.completed import once

FAMILIES = {"vpt": vpt, "coop": coop}


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
        if mounted:
            with full(tmp_path / "disk", free), contextlib.suppress(InputError):
                train(folder, resume=True, validate_every=1)
        else:
            (folder / "metrics.jsonl").rename(folder / "kept")
            (folder / "metrics.jsonl").symlink_to("/dev/full")
            with RunFolder(folder, resume=True) as opened, pytest.raises(InputError, match="No space left"):
                opened.row(step=4)
            (folder / "kept").replace(folder / "metrics.jsonl")
        assert load_checkpoint(folder / "last.ckpt")["position"][:2] >= (1, 2)
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
