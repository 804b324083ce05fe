"""The run folder: what it keeps, drops, locks and refuses."""

import logging
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptvision.engine.checkpoint import read_json
from promptvision.engine.log import RunFolder, facts
from promptvision.errors import InputError

FILES = ("metrics.jsonl", "result.json", "learned.safetensors", "last.ckpt", "events.out.tfevents.1")


def test_everything_lies_where_it_should(tmp_path):
    with RunFolder(tmp_path / "a" / "b") as folder:
        folder.write_config("SEED: 1\n")
        folder.row(step=0, epoch=0, loss=2.5, lr=0.1, seconds=1.0)
        folder.row(step=0, epoch=0, val={"accuracy": 50.0, "n": 4})
        folder.write_result({"accuracy": 50.0})
        logging.getLogger("promptvision.anything").info("a line")
        assert folder.rows()[0] == {"step": 0, "epoch": 0, "loss": 2.5, "lr": 0.1, "seconds": 1.0}
    assert folder.path == tmp_path / "a" / "b"
    assert folder.config.read_text() == "SEED: 1\n" and read_json(folder.result) == {"accuracy": 50.0}
    assert folder.log.read_text().endswith("INFO a line\n")
    curves = EventAccumulator(str(folder.path)).Reload()
    assert curves.Tags()["scalars"] == ["loss", "lr", "val/accuracy", "val/n"]
    assert [(event.step, event.value) for event in curves.Scalars("loss")] == [(0, 2.5)]


def test_nothing_is_logged_into_a_closed_folder(tmp_path):
    with RunFolder(tmp_path) as folder:
        pass
    logging.getLogger("promptvision").warning("too late")
    assert folder.log.read_text() == ""


def test_rows_of_later_steps_and_torn_lines_are_forgotten(tmp_path):
    with RunFolder(tmp_path) as folder:
        for step in range(4):
            folder.row(step=step, loss=1.0)
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    time.sleep(1.1)  # TensorBoard orders its files by the second they were begun in
    with RunFolder(tmp_path, resume=True) as folder:
        assert [row["step"] for row in folder.rows()] == [0, 1, 2, 3]
        folder.forget_from(2)
        folder.row(step=2, loss=2.0)
        assert [(row["step"], row["loss"]) for row in folder.rows()] == [(0, 1.0), (1, 1.0), (2, 2.0)]
    curve = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in curve] == [(0, 1.0), (1, 1.0), (2, 2.0)]


def test_an_earlier_run_is_removed_when_the_new_one_begins(tmp_path):
    for name in (*FILES, "config.yaml", "mine.txt"):
        (tmp_path / name).write_text("old")
    with RunFolder(tmp_path) as folder:
        assert all((tmp_path / name).exists() for name in FILES)
        folder.write_config("new")
    assert not any((tmp_path / name).exists() for name in FILES)
    assert (tmp_path / "config.yaml").read_text() == "new" and (tmp_path / "mine.txt").exists()


def test_a_resumed_run_keeps_its_files_and_config(tmp_path):
    for name in (*FILES, "config.yaml"):
        (tmp_path / name).write_text("old")
    with RunFolder(tmp_path, resume=True) as folder:
        folder.write_config("new")
        assert all((tmp_path / name).read_text() == "old" for name in (*FILES, "config.yaml"))
        folder.checkpoint.unlink()
        folder.write_config("new")
    assert folder.config.read_text() == "new"


def test_a_second_run_in_the_folder_is_refused_while_the_first_lives(tmp_path):
    hold = "import sys; from promptvision.engine.log import RunFolder\n"
    hold += f"with RunFolder({str(tmp_path)!r}): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="is in use by another run; wait for it or take another"):
            RunFolder(tmp_path)
        other.kill()
    with RunFolder(tmp_path, resume=True) as folder:
        folder.row(step=0)


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"OUTPUT_DIR .*{name} cannot be written: (File exists|Not a directory)"):
        RunFolder(tmp_path / name)


def test_a_full_disk_is_named(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.metrics.symlink_to("/dev/full")
        with pytest.raises(InputError, match="metrics.jsonl cannot be written: No space left on device"):
            folder.row(step=0)
        folder.metrics.unlink()


def test_facts_tell_where_the_code_lies_and_what_it_runs_on():
    found = facts(torch.device("cpu"))
    assert found["torch"] == torch.__version__.partition("+")[0] and found["code"].endswith("promptvision")
    assert {"python", "timm", "open_clip_torch", "platform", "device", "threads"} <= set(found)
