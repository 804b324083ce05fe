"""The run folder: what it keeps, drops, locks and refuses."""

import logging
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptvision.atomic import read_json
from promptvision.engine.environment import facts
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError

FILES = ("metrics.jsonl", "result.json", "learned.safetensors", "last.ckpt", "events.out.tfevents.1")


def test_everything_lies_where_it_should(tmp_path):
    with RunFolder(tmp_path / "a" / "b") as folder:
        folder.write_config("SEED: 1\n")
        folder.row(step=0, epoch=0, loss=2.5, lr=0.1, seconds=1.0)
        folder.row(step=0, epoch=0, val={"accuracy": 50.0, "n": 4})
        folder.write_result({"accuracy": 50.0})
        logging.getLogger("promptvision.anything").info("a line")
        assert read_rows(folder.metrics)[0] == {"step": 0, "epoch": 0, "loss": 2.5, "lr": 0.1, "seconds": 1.0}
    assert folder.path == tmp_path / "a" / "b"
    assert folder.config.read_text() == "SEED: 1\n" and read_json(folder.result) == {"accuracy": 50.0}
    assert folder.log.read_text().endswith("INFO a line\n")
    curves = EventAccumulator(str(folder.path)).Reload()
    assert curves.Tags()["scalars"] == ["loss", "lr", "val/accuracy", "val/n"]
    assert [(event.step, event.value) for event in curves.Scalars("loss")] == [(0, 2.5)]


@pytest.fixture
def service(monkeypatch):
    """In place of the package wandb: what it was given, by the number of the run."""
    runs = {}

    def init(id, **known):
        run = runs.setdefault(id, SimpleNamespace(rows=[], summary={}, offline=True, known=known, ended=[]))
        run.log = lambda values, step: run.rows.append((step, values))
        run.finish = lambda exit_code: run.ended.append(exit_code)
        return run

    errors = SimpleNamespace(Error=ConnectionError)
    module = SimpleNamespace(init=init, Settings=lambda **settings: settings, errors=errors)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module, runs


def test_curves_and_result_go_to_weights_and_biases_and_go_on_there(tmp_path, service):
    with pytest.raises(SystemExit), RunFolder(tmp_path / "mine") as folder:
        folder.connect_wandb("prompts", {"SEED": 1})
        folder.write_config("SEED: 1")
        folder.row(step=0, epoch=0, loss=2.5, lr=0.1, seconds=1.0)
        folder.checkpoint.write_text("")
        raise SystemExit(143)
    with RunFolder(tmp_path / "mine", resume=True) as folder:
        folder.connect_wandb("prompts", {"SEED": 1})
        folder.row(step=1, epoch=0, val={"accuracy": 50.0})
        folder.write_result({"accuracy": 60.0, "dataset": "dtd", "pictures": {"train": 3}})
    (run,) = service[1].values()
    assert run.known["project"] == "prompts" and run.known["name"] == "mine" and run.known["config"] == {"SEED": 1}
    assert run.rows == [(0, {"loss": 2.5, "lr": 0.1}), (1, {"val/accuracy": 50.0})]
    assert run.summary == {"accuracy": 60.0, "pictures/train": 3} and run.ended == [1, 0]
    with RunFolder(tmp_path / "mine") as folder:
        folder.connect_wandb("prompts", {"SEED": 1})
    assert len(service[1]) == 2, "a run that starts from scratch is another one"


def test_weights_and_biases_that_does_not_let_in_is_one_sentence(tmp_path, service):
    def init(**known):
        raise ConnectionError("No API key configured.\nmore")

    service[0].init = init
    said = "LOG.WANDB prompts: No API key configured; WANDB_MODE=offline keeps the run here"
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=said):
        folder.connect_wandb("prompts", {})


def test_weights_and_biases_that_is_not_installed_is_one_sentence_and_costs_nothing(tmp_path, tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"DATASET": {"NAME": "digits", "SHOTS": 1}}))
    words = ["--config", tmp_path / "c.yaml", "OUTPUT_DIR", tmp_path / "run"]
    assert tool("train", *words, "OPTIM.EPOCHS", "0")[0] == 0
    (tmp_path / "run/result.json").write_text("{}")
    status, _, err = tool("train", "--overwrite", *words, "LOG.WANDB", "prompts")
    assert status == 2 and "error: LOG.WANDB needs Weights & Biases: pip install 'promptvision[wandb]'" in err
    assert (tmp_path / "run/result.json").read_text() == "{}"


def test_nothing_is_logged_into_a_closed_folder(tmp_path):
    with RunFolder(tmp_path) as folder:
        pass
    logging.getLogger("promptvision").warning("too late")
    assert folder.log.read_text() == ""


@pytest.mark.fault("files")
def test_rows_of_later_steps_and_torn_lines_are_forgotten(tmp_path):
    with RunFolder(tmp_path) as folder:
        for step in range(4):
            folder.row(step=step, loss=1.0)
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    time.sleep(1.1)  # TensorBoard orders its files by the second in which they were started
    with RunFolder(tmp_path, resume=True) as folder:
        assert [row["step"] for row in read_rows(folder.metrics)] == [0, 1, 2, 3]
        folder.forget_from(2)
        folder.row(step=2, loss=2.0)
        assert [(row["step"], row["loss"]) for row in read_rows(folder.metrics)] == [(0, 1.0), (1, 1.0), (2, 2.0)]
    curve = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in curve] == [(0, 1.0), (1, 1.0), (2, 2.0)]


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "line", [b"\xc3", b"[" * 9000, b'{"step": 1' + b"0" * 5000 + b"}", b"[1]", b'{"step": "1"}', None]
)
def test_rows_that_are_lost_before_the_checkpoint_are_told(tmp_path, caplog, line):
    with RunFolder(tmp_path) as folder:
        for step in range(4):
            folder.row(step=step, epoch=0, loss=1.0)
        lines = folder.metrics.read_bytes().splitlines()
        lines[1:2] = [line] if line else []
        folder.metrics.write_bytes(b"\n".join(lines) + b"\n\xc3")
        caplog.clear()
        folder.forget_from(4)
        assert [row["step"] for row in read_rows(folder.metrics)] == [0, 2, 3]
    assert "metrics.jsonl lacks the rows of 1 of the 4 steps before the checkpoint" in caplog.text
    assert ("damaged lines are left out: 1" in caplog.text) == bool(line)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=r"metrics\.jsonl cannot be written: Is a dir"):
        folder.write_config("SEED: 1")


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


@pytest.mark.fault("files")
def test_a_second_run_in_the_folder_is_refused_while_the_first_lives(tmp_path):
    hold = "import sys; from promptvision.engine.run_folder import RunFolder\n"
    hold += f"with RunFolder({str(tmp_path)!r}): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="is in use by another run; wait for it or choose another folder"):
            RunFolder(tmp_path)
        other.kill()
    with RunFolder(tmp_path, resume=True) as folder:
        folder.row(step=0)


@pytest.mark.fault("files")
@pytest.mark.parametrize("name", ["file", "file/out"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"OUTPUT_DIR .*{name} cannot be written: (File exists|Not a directory)"):
        RunFolder(tmp_path / name)


@pytest.mark.fault("files")
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
