"""Computed results are shown even if their file cannot be written, and no older file is lost."""

import json
import shutil
from pathlib import Path

import pytest

from promptvision.atomic import write_atomically
from promptvision.errors import InputError
from promptvision.report.figures.style import pyplot, save
from promptvision.report.page.html import write_page
from promptvision.report.report import load_report
from promptvision.report.write import write_files

ROOT = Path(__file__).parents[1]
LINEAR = ROOT / "configs/vpt/embedded_linear.yaml"
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]


@pytest.fixture
def run(tool, tmp_path):
    assert tool("train", "--config", LINEAR, *QUICK, "OUTPUT_DIR", tmp_path / "run")[0] == 0
    return tmp_path / "run"


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk("table.json")`: files of this name meet a full disk when they are written to."""

    def fill(name):
        def write(path, content):
            if Path(path).name == name:
                raise InputError(f"{path} cannot be written: No space left on device")
            write_atomically(path, content)

        monkeypatch.setattr("promptvision.atomic.write_atomically", write)

    return fill


@pytest.mark.fault("files")
def test_scores_of_an_evaluation_are_shown_before_their_file_fails(tool, run):
    (run / "eval-digits-all-test.json").mkdir()
    status, out, err = tool("eval", "--run", run)
    accuracy = json.loads((run / "result.json").read_text())["accuracy"]
    assert status == 2 and f"{accuracy:.2f}" in out
    assert f"error: {run / 'eval-digits-all-test.json'} cannot be written: Is a directory" in err


@pytest.mark.fault("files")
def test_scores_of_training_are_shown_before_their_file_fails(tool, tmp_path, full_disk):
    full_disk("result.json")
    status, out, err = tool("train", "--config", LINEAR, *QUICK, "OUTPUT_DIR", tmp_path / "run")
    assert status == 2 and "accuracy" in out and "result.json cannot be written: No space left on device" in err


@pytest.mark.fault("files")
def test_the_table_of_a_sweep_is_shown_before_its_file_fails(tool, tmp_path, full_disk):
    (tmp_path / "b.yaml").write_text(json.dumps({"RUNS": {"a": {"CONFIG": str(LINEAR)}}}))
    full_disk("table.json")
    status, out, err = tool("sweep", "--config", tmp_path / "b.yaml", "--output", tmp_path / "out", *QUICK)
    assert status == 2 and "digits" in out and "linear" in out and "table.json cannot be written" in err


def one_cell(tmp_path, **evals):
    (tmp_path / "b.yaml").write_text(json.dumps({"RUNS": {"a": {"CONFIG": str(LINEAR)}}, "EVAL": evals}))
    return ["--config", tmp_path / "b.yaml", "--output", tmp_path / "out", *QUICK]


@pytest.mark.fault("files")
def test_the_score_of_a_cell_is_shown_though_its_file_fails(tool, tmp_path, full_disk):
    full_disk("result.json")
    status, out, err = tool("sweep", *one_cell(tmp_path), "--html", tmp_path / "r.html")
    [result] = json.loads((tmp_path / "out/table.json").read_text())["a"]
    assert status == 2 and "a, seed 1 ┌" in " ".join(out.split()) and f"{result['accuracy']:.2f}" in out
    assert f"a, seed 1: {tmp_path / 'out/a/seed1/result.json'} cannot be written: No space left on device" in err


@pytest.mark.fault("files")
def test_the_score_of_a_later_test_is_shown_though_its_file_fails(tool, tmp_path, full_disk):
    full_disk("eval-val.json")
    status, out, err = tool("sweep", *one_cell(tmp_path, val={"TEST.SPLIT": "val"}))
    [result] = json.loads((tmp_path / "out/table.json").read_text())["a"]
    assert (
        status == 2
        and "a, seed 1, val ┌" in " ".join(out.split())
        and f"{result['evals']['val']['accuracy']:.2f}" in out
    )
    assert "eval-val.json cannot be written: No space left on device" in err
    assert (tmp_path / "out/a/seed1/result.json").is_file()


@pytest.mark.fault("files")
@pytest.mark.slow
def test_the_score_of_a_worker_is_shown_though_its_file_fails(tool, tmp_path):
    assert tool("sweep", *one_cell(tmp_path))[0] == 0
    (tmp_path / "out/a/seed1/eval-val.json").mkdir()
    status, out, err = tool("sweep", *one_cell(tmp_path, val={"TEST.SPLIT": "val"}), "--jobs", "2")
    assert status == 2 and "a, seed 1, val ┌" in " ".join(out.split())
    assert "eval-val.json cannot be written: Is a directory" in err


@pytest.mark.fault("files")
def test_the_score_of_a_search_is_shown_though_its_file_fails(tool, tmp_path, full_disk):
    grid = {"PROTOCOL": "vtab", "GRID": {"OPTIM.LR": [0.1]}, "SEEDS": [1]}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    full_disk("result.json")
    words = ["--grid", tmp_path / "grid.yaml", "--config", LINEAR, *QUICK, "OUTPUT_DIR", tmp_path / "tuned"]
    status, out, err = tool("tune", *words)
    assert status == 2 and "accuracy" in out and "lr0.1/result.json cannot be written" in err


@pytest.mark.fault("files")
def test_a_page_and_figures_on_a_full_disk_leave_the_older_ones(write_run, tmp_path, monkeypatch):
    write_run("run")
    page, figures, report = tmp_path / "r.html", tmp_path / "figures", load_report(tmp_path / "out")
    files = [page, *write_files(report, figures, page)]
    before = [file.read_bytes() for file in files]

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for where in ((None, page), (figures, None)):
        with pytest.raises(InputError, match=r"(r\.html|\.png|\.svg) cannot be written: No space left on device"):
            write_files(report, *where)
    with pytest.raises(InputError, match=r"r\.html cannot be written: No space left on device"):
        write_page(report, [], page)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.fault("files")
def test_a_figure_is_moved_into_place(tmp_path):
    (tmp_path / "older.png").write_bytes(b"older")
    link = tmp_path / "link.png"
    link.hardlink_to(tmp_path / "older.png")
    assert save(pyplot.figure(), tmp_path / "older", [".png"]) == [tmp_path / "older.png"]
    assert (tmp_path / "older.png").read_bytes().startswith(b"\x89PNG") and link.read_bytes() == b"older"


def test_a_report_finds_the_runs_below_a_run(write_run, tmp_path):
    write_run("top")
    top = tmp_path / "out/top"
    for name in ("again/seed2", "task_1"):
        shutil.copytree(write_run(f"other/{name}", accuracy=70.0, seed=2), top / name)
    assert [run.name for run in load_report(top).runs] == ["top", "again/seed2", "task_1"]
    assert {run.name for run in load_report(tmp_path / "out").runs} >= {"top", "top/again/seed2", "top/task_1"}


def test_tasks_of_a_stream_are_no_runs_even_before_it_is_finished(write_run, tmp_path):
    write_run("whole", continual={"JOINT": False}, matrix=[[50.0]], tasks=[{"name": "a"}])
    (tmp_path / "out/cut").mkdir()
    (tmp_path / "out/cut/stream.json").write_text("{}")
    for stream in ("whole", "cut"):
        shutil.copytree(write_run(f"other/{stream}"), tmp_path / "out" / stream / "task_1")
        shutil.copytree(write_run(f"more/{stream}"), tmp_path / "out" / stream / "more")
    found = {run.name for run in load_report(tmp_path / "out").runs}
    assert {"whole", "whole/more", "cut/more"} <= found and not {"whole/task_1", "cut/task_1"} & found
