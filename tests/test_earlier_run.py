"""A finished run is never lost: the same config gives its result, everything else is refused or asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from promptvision.engine.checkpoint import load_learned, save_learned
from promptvision.engine.earlier_run import first_difference

ROOT = Path(__file__).parents[1]
COOP = ROOT / "configs/coop/embedded.yaml"
STREAM = ROOT / "configs/vpt/embedded_l2p.yaml"
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]
TASKS = ["CONTINUAL.TASKS", "2", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1", "TEST.SPLIT", "val"]


def contents(folder):
    """Return the contents of a folder, without its locks and logs."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.name not in (".lock", "log.txt")}


@pytest.fixture
def train(tool, tmp_path):
    """`train(*words)` runs tools/train.py into tmp_path / "run"."""

    def call(*words, config=COOP, quick=QUICK):
        options = [word for word in words if word in ("--overwrite", "--resume", "auto")]
        overrides = [*quick, "OUTPUT_DIR", tmp_path / "run", *(word for word in words if word not in options)]
        return tool("train", "--config", config, *options, *overrides)

    return call


@pytest.mark.fault("files")
@pytest.mark.parametrize("resume", [[], ["--resume", "auto"]])
def test_the_same_config_again_prints_the_result_and_changes_nothing(train, tmp_path, resume):
    assert train()[0] == 0
    before = contents(tmp_path / "run")
    status, out, err = train(*resume, "COMPUTE.CHUNK", "3", "TRAIN.WORKERS", "1", "CACHE_DIR", tmp_path / "cache")
    assert status == 0 and "accuracy" in out and "is finished" in err
    assert contents(tmp_path / "run") == before and not (tmp_path / "cache").exists()


@pytest.mark.fault("files")
@pytest.mark.parametrize("resume", [[], ["--resume", "auto"]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["SEED", "2"], "SEED was 1, here it is 2"),
        (["OPTIM.LR", "0.5", "METHOD.NAME", "cocoop"], "METHOD.NAME was 'coop', here it is 'cocoop'"),
        (["TEST.SPLIT", "val"], "TEST.SPLIT was 'test', here it is 'val'"),
        (["TRAIN.PRECISION", "bf16"], "TRAIN.PRECISION was 'fp32', here it is 'bf16'"),
    ],
)
def test_another_run_is_refused_with_the_first_difference_and_the_ways_out(train, tmp_path, words, said, resume):
    assert train()[0] == 0
    (tmp_path / "run/eval-mine.json").write_text("{}")
    before = contents(tmp_path / "run")
    status, _, err = train(*words, *resume)
    assert status == 2 and f"holds another run: {said}; choose another OUTPUT_DIR, or" in err and "--overwrite" in err
    assert contents(tmp_path / "run") == before


@pytest.mark.fault("files")
def test_overwrite_removes_all_of_the_old_run_once_the_new_one_is_ready(train, tmp_path):
    assert train("OPTIM.EPOCHS", "2", "TRAIN.KEEP", "best", "TRAIN.EVAL_EVERY", "1")[0] == 0
    run = tmp_path / "run"
    (run / "eval-mine.json").write_text("{}")
    (run / "notes.md").write_text("mine")
    before = contents(run)
    for wrong in (["DATASET.ROOT", tmp_path, "DATASET.NAME", "folder"], ["BACKBONE.NAME", tmp_path / "none.pt"]):
        assert train("--overwrite", *wrong)[0] == 2
        assert contents(run) == before
    assert train("--overwrite", "TRAIN.KEEP", "best")[0] == 2, "best needs TRAIN.EVAL_EVERY"
    assert contents(run) == before
    assert train("--overwrite", "SEED", "2")[0] == 0
    assert json.loads((run / "result.json").read_text())["seed"] == 2
    assert {"eval-mine.json", "best.safetensors"}.isdisjoint(contents(run))
    assert (run / "notes.md").read_text() == "mine" and len(list(run.glob("events.out.tfevents.*"))) == 1


@pytest.mark.fault("files")
def test_overwrite_trains_the_same_config_again(train, tmp_path):
    assert train()[0] == 0
    first = (tmp_path / "run/learned.safetensors").stat().st_mtime_ns
    assert train("--overwrite")[0] == 0
    assert (tmp_path / "run/learned.safetensors").stat().st_mtime_ns > first
    status, _, err = train("--overwrite", "--resume", "auto")
    assert status == 2 and "choose one" in err


@pytest.mark.fault("files")
def test_an_unfinished_run_starts_again_and_says_so_but_another_one_is_refused(train, tmp_path):
    assert train()[0] == 0
    (tmp_path / "run/result.json").unlink()
    status, _, err = train("SEED", "2")
    assert status == 2 and "SEED was 1, here it is 2" in err and (tmp_path / "run/last.ckpt").exists()
    status, _, err = train()
    assert status == 0 and "Started again from scratch; --resume auto continues an unfinished run" in err
    assert (tmp_path / "run/result.json").exists()


@pytest.mark.fault("files")
def test_a_run_that_never_got_anywhere_is_no_obstacle(train, tmp_path):
    (tmp_path / "run").mkdir()
    assert train("METHOD.WEIGHTS", tmp_path / "none.safetensors")[0] == 2
    assert train("SEED", "2")[0] == 0


@pytest.mark.fault("files")
@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "my: app\n", "result.json": '{"mine": 1}', "events.out.tfevents.1.mine": ""},
        {"thesis.tex": "mine"},
        {"config.yaml": "METHOD: {NAME: coop}\n"},
        {"last.ckpt": ""},
    ],
)
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume", "auto"]])
def test_a_folder_with_other_files_is_refused(train, tmp_path, files, more):
    (tmp_path / "run").mkdir()
    for name, text in files.items():
        (tmp_path / "run" / name).write_text(text)
    status, _, err = train(*more)
    assert status == 2 and f"holds {min(files)}, which no run wrote; choose another OUTPUT_DIR" in err
    assert {file.name: file.read_text() for file in (tmp_path / "run").iterdir()} == files


@pytest.mark.fault("files")
def test_runs_below_the_folder_are_no_obstacle(train, tool, tmp_path):
    assert train()[0] == 0
    assert tool("train", "--config", COOP, *QUICK, "OUTPUT_DIR", tmp_path)[0] == 0
    assert (tmp_path / "run/result.json").exists() and (tmp_path / "result.json").exists()


@pytest.mark.fault("files")
@pytest.mark.parametrize("name", ["train", "tune"])
def test_an_empty_output_dir_is_refused(tool, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    grid = ["--grid", ROOT / "configs/vpt/grids/fgvc_prompt.yaml"] if name == "tune" else []
    status, _, err = tool(name, "--config", COOP, *grid, *QUICK, "OUTPUT_DIR", "")
    assert status == 2 and "OUTPUT_DIR is empty" in err and not list(tmp_path.iterdir())


@pytest.mark.fault("files")
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_the_config_file_of_the_command_is_not_replaced(train, tmp_path, more):
    (tmp_path / "run").mkdir()
    text = f"# my notes\n_BASE_: {COOP}\n"
    (tmp_path / "run/config.yaml").write_text(text)
    status, _, err = train(*more, config=tmp_path / "run/config.yaml")
    assert status == 2 and f"holds the config file {tmp_path / 'run/config.yaml'}" in err
    assert (tmp_path / "run/config.yaml").read_text() == text
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_test_images_per_step_make_another_run_where_they_choose_together():
    for together in (True, False):
        was, now = ({"METHOD": {"OPTIONS": {"BATCHWISE_TEST": together}}, "TEST": {"BATCH_SIZE": n}} for n in (1, 9))
        assert first_difference(was, now) == ("TEST.BATCH_SIZE was 1, here it is 9" if together else None)


@pytest.mark.fault("files")
def test_a_finished_stream_is_kept(train, tmp_path):
    words = dict(config=STREAM, quick=TASKS)
    assert train(**words)[0] == 0
    before = contents(tmp_path / "run")
    status, out, err = train(**words)
    assert status == 0 and "after learning" in out and "is finished" in err and contents(tmp_path / "run") == before
    status, _, err = train("CONTINUAL.TASKS", "3", **words)
    assert status == 2 and "CONTINUAL.TASKS was 2, here it is 3" in err and contents(tmp_path / "run") == before
    assert train(config=STREAM, quick=QUICK)[0] == 2
    assert contents(tmp_path / "run") == before
    notes = tmp_path / "run/task_2/notes.txt"
    notes.write_text("mine")
    assert train("--overwrite", config=STREAM, quick=[*QUICK, "CONTINUAL.TASKS", "0"])[0] == 0
    assert not {"stream.json", "matrix.png", "prompt_choices.png"} & contents(tmp_path / "run").keys()
    assert [path for path in (tmp_path / "run").rglob("task_*/*")] == [notes] and notes.read_text() == "mine"
    assert [path.name for path in (tmp_path / "run").glob("task_*")] == ["task_2"]


@pytest.mark.fault("files")
def test_a_sweep_keeps_finished_runs_after_its_file_changed(tool, tmp_path):
    row = {"CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml"), "OPTIM.LR": 0.1}
    path, words = tmp_path / "b.yaml", ["--config", tmp_path / "b.yaml", "--output", tmp_path / "out", *QUICK]
    path.write_text(yaml.safe_dump({"RUNS": {"a": row}, "SEEDS": [1, 2]}))
    assert tool("sweep", *words)[0] == 0
    before = contents(tmp_path / "out")
    path.write_text(yaml.safe_dump({"RUNS": {"a": {**row, "OPTIM.LR": 0.2}}, "SEEDS": [1, 2, 3]}))
    status, _, err = tool("sweep", *words)
    assert status == 2 and "OPTIM.LR was 0.1, here it is 0.2" in err and err.count("another run") == 1
    assert contents(tmp_path / "out") == before
    assert tool("sweep", *words, "--overwrite")[0] == 0
    runs = [json.loads(file.read_text()) for file in (tmp_path / "out").rglob("result.json")]
    assert sorted(run["seed"] for run in runs) == [1, 2, 3]
    assert "LR: 0.2" in (tmp_path / "out/a/seed1/config.yaml").read_text()
    kept = (tmp_path / "out/a/seed1/result.json").stat().st_mtime_ns
    assert tool("sweep", "--overwrite", *words, "COMPUTE.CHUNK", "5")[0] == 0
    assert (tmp_path / "out/a/seed1/result.json").stat().st_mtime_ns == kept


@pytest.mark.fault("files")
def test_a_search_keeps_its_final_runs(tool, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({"PROTOCOL": "vtab", "GRID": {"OPTIM.LR": [0.1]}, "SEEDS": [1]}))
    config = ROOT / "configs/vpt/embedded_linear.yaml"
    words = ["--grid", grid, "--config", config, *QUICK, "OUTPUT_DIR", tmp_path / "out"]
    assert tool("tune", *words)[0] == 0
    before = contents(tmp_path / "out")
    status, _, err = tool("tune", *words, "OPTIM.MOMENTUM", "0.5")
    assert status == 2 and "OPTIM.MOMENTUM was 0.9, here it is 0.5" in err
    assert contents(tmp_path / "out") == before
    assert tool("tune", *words, "OPTIM.MOMENTUM", "0.5", "--overwrite")[0] == 0
    assert "MOMENTUM: 0.5" in (tmp_path / "out/final1/config.yaml").read_text()


@pytest.mark.fault("files")
def test_processes_of_torchrun_give_a_finished_result(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [ROOT / "tools/train.py", "--config", ROOT / "configs/vpt/embedded_linear.yaml", *QUICK]
    words += ["TRAIN.DEVICE", "cpu", "OUTPUT_DIR", tmp_path / "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        subprocess.run([*map(str, words)], check=True, timeout=120, env=environment, capture_output=True)


def test_an_option_that_has_come_since_is_as_the_run_was_made(train, tool, tmp_path):
    folder = tmp_path / "run"
    assert train("METHOD.OPTIONS.PARALLEL", "true", config=ROOT / "configs/vpt/embedded_adapter.yaml")[0] == 0
    state, metadata = load_learned(folder / "learned.safetensors")
    config = yaml.safe_load(metadata["config"])
    del config["METHOD"]["OPTIONS"]["READS"]
    save_learned(folder / "learned.safetensors", state, {**metadata, "config": yaml.safe_dump(config)})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    status, _, err = tool("eval", "--run", folder)
    assert status == 2 and "by an earlier version, with METHOD.OPTIONS.READS normed; give METHOD.OPTIONS.READS" in err
    assert tool("eval", "--run", folder, "METHOD.OPTIONS.READS", "normed")[0] == 0


@pytest.mark.parametrize(
    ("name", "text"), [("search.json", '{"mine": 1}'), ("search.json", "7"), ("search.png", ""), ("search.svg", "")]
)
def test_a_search_replaces_no_file_of_the_user(tool, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    words = ["--grid", ROOT / "configs/vpt/grids/embedded.yaml", "--config", ROOT / "configs/vpt/embedded.yaml"]
    status, _, err = tool("tune", *words, "OUTPUT_DIR", tmp_path)
    assert status == 2 and f"holds a {name} that no search wrote" in err
    assert [file.name for file in tmp_path.iterdir()] == [name]
