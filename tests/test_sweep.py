"""Sweeps: which runs they do, that a failure stops nothing, and that nothing is done twice."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from test_benchmarks import write
from yacs.config import CfgNode

import coop
import vpt
from promptvision.errors import InputError
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import Job, Outcome, plan
from promptvision.sweep.local import Event
from promptvision.sweep.progress import Board
from promptvision.sweep.run import work_off

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]


@pytest.fixture
def two_rates(tmp_path):
    row = {"CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml")}
    content = {"RUNS": {"low": {**row, "OPTIM.LR": 0.01}, "high": row}, "SEEDS": [1, 2]}
    return write(tmp_path / "b.yaml", content)


def test_parts_lie_in_folders_of_their_own(tool, tmp_path):
    row = {"CONFIG": str(ROOT / "configs/coop/embedded_zero_shot.yaml"), "DATASET.NAME": "digits"}
    write(tmp_path / "one.yaml", {"RUNS": {"a": row}, "SEEDS": [1]})
    write(tmp_path / "two.yaml", {"RUNS": {"a": row, "b": row}, "SEEDS": [3]})
    path = write(tmp_path / "both.yaml", {"PARTS": {"first": "one.yaml", "second": "two.yaml"}})
    words = ["--config", path, "--output", tmp_path / "out", "--html", tmp_path / "page.html", "--only", "a"]
    status, out, err = tool("sweep", *words)
    assert status == 0 and "zero-shot CLIP" in out, err
    assert "page:" in out and "zero-shot CLIP" in (tmp_path / "page.html").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "out/table.json").read_text())
    assert {name: [run["seed"] for run in runs] for name, runs in found.items()} == {"first: a": [1], "second: a": [3]}
    assert (tmp_path / "out/second/a/seed3/result.json").is_file()


def test_a_dry_run_tells_and_does_nothing(tool, two_rates, tmp_path):
    words = ["--config", two_rates, "--output", tmp_path / "out", *QUICK]
    status, out, _ = tool("sweep", *words, "--dry-run")
    assert status == 0 and "0 of 4 done" in out and "time unknown\n4 runs and tests in all" in out
    assert not (tmp_path / "out").exists() and all(line.count("┃") in (0, 4) for line in out.splitlines())
    tool("sweep", *words, "--only", "low")
    status, out, _ = tool("sweep", *words, "--dry-run")
    assert status == 0 and "2 of 4 done" in out and "2/2" in out and " left" in out


def test_after_each_part_something_may_be_done(monkeypatch):
    """Jobs of two parts, one of which fails once; the last part is followed by the end of the sweep itself."""
    jobs = [Job(f"{part}: a", CfgNode({"SEED": seed}), part=part) for part in ("first", "second") for seed in (1, 2)]
    fine, bad = Outcome([{"accuracy": 50.0}], []), Outcome([], ["broken"])
    order = [(0, fine, False), (1, bad, True), (2, fine, False), (1, fine, False), (3, fine, False)]
    events = (event for number, *rest in order for event in (Event(number), Event(number, *rest)))
    monkeypatch.setattr("promptvision.sweep.run.start", lambda *_: events)
    board, calls = Board(jobs, [None] * 4), []
    console = Console(file=StringIO())
    failures = work_off(board, {}, console, part_done=lambda: calls.append([bool(each) for each in board.outcomes]))
    assert failures == [] and calls == [[True, True, True, False]]


def test_searches_and_streams_are_rows(tool, tmp_path):
    grid = {"PROTOCOL": "vtab", "GRID": {"OPTIM.LR": [0.5, 0.1]}, "SEEDS": [1, 2]}
    stream = {"DATASET.NAME": "digits", "OPTIM.EPOCHS": 1, "CONTINUAL.TASKS": 2}
    rows = {
        "searched": {
            "CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml"),
            "SEARCH": str(write(tmp_path / "grid.yaml", grid)),
            "DATASET.SHOTS": 2,
            "DATASET.VALIDATION": "held_out",
        },
        "stream": {"CONFIG": str(ROOT / "configs/vpt/embedded_continual_finetune.yaml"), **stream},
    }
    path = write(tmp_path / "b.yaml", {"RUNS": rows})
    words = ["--config", path, "--output", tmp_path / "out", "DATASET.NAME", "digits", "OPTIM.EPOCHS", "1"]
    status, out, err = tool("sweep", *words)
    assert status == 0 and "Few-shot: digits, 2 shots" in out and "Continual learning: digits" in out, err
    assert "as in a search, are in no table: 2." in out
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert [run["seed"] for run in table["searched"]] == [1, 2] and len(table["stream"][0]["matrix"]) == 2
    _, out, _ = tool("sweep", *words, "--dry-run")
    assert "2 of 2 done" in out and "5 runs and tests" in out


def test_a_sweep_prints_its_table_and_keeps_what_is_done(tool, two_rates, tmp_path):
    words = ["--benchmark", two_rates, "--output", tmp_path / "out", *QUICK]
    status, out, err = tool("sweep", *words)
    assert status == 0 and "linear head (lr 0.01)" in out and "linear head (lr 0.05)" in out, err
    printed = [line for line in tool("report", tmp_path / "out")[1].splitlines() if line.startswith(" linear head")]
    assert len(printed) == 2 and all(line in out for line in printed), "as the report of its folder prints them"
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert [[run["seed"] for run in runs] for runs in table.values()] == [[1, 2], [1, 2]]
    result = tmp_path / "out/low/seed1/result.json"
    before = result.stat().st_mtime_ns
    assert tool("sweep", *words)[0] == 0 and result.stat().st_mtime_ns == before


def test_a_failed_run_stops_no_other(tool, tmp_path):
    row = {"CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml")}
    runs = {"missing": {**row, "DATASET.NAME": "dtd", "DATASET.ROOT": str(tmp_path)}, "fine": row}
    path = write(tmp_path / "b.yaml", {"RUNS": runs})
    status, out, err = tool("sweep", "--benchmark", path, "--output", tmp_path / "out", "OPTIM.EPOCHS", "1")
    assert status == 2 and "1 of 2 runs failed; missing, seed 1:" in err and "linear head" in out


GRID = {"RUNS": {"CoOp": {"CONFIG": "c.yaml"}, "CoCoOp": {"CONFIG": "c.yaml", "OPTIM.LR": 0.5}}, "SEEDS": [1, 2]}
GRID |= {"GRID": {"DATASET.NAME": ["digits", "world_shapes"]}, "EVAL": {"new": {"DATASET.CLASSES": "new"}}}


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ([], 8),
        (["DATASET.NAME=digits"], 4),
        (["RUN=CoOp"], 4),
        (['RUN="CoOp"', "SEED=1"], 2),
        (["SEED=1", "DATASET.NAME=digits", "DATASET.NAME=world_shapes"], 4),
        (["CoOp, digits"], 2),
        (["CoOp, digits", "CoCoOp, world_shapes"], 4),
        (["CoOp"], 8),
        (["CoCo"], 4),
        (["digits", "RUN=CoCoOp"], 2),
        (["OPTIM.LR=0.5"], 4),
        (["SEED=3"], 0),
    ],
)
def test_only_takes_conditions_and_whole_names(tmp_path, only, count):
    (tmp_path / "c.yaml").write_text("")
    cells = load_cells(write(tmp_path / "b.yaml", GRID))
    found = plan(cells, tmp_path, [], FAMILIES, only)
    assert len(found) == count
    if 'RUN="CoOp"' in only or "RUN=CoOp" in only:
        assert {job.name for job in found} == {"CoOp, digits", "CoOp, world_shapes"}
    with pytest.raises(InputError, match="--only DATASET.SIZE=3: DATASET.SIZE is no key of a config"):
        plan(cells, tmp_path, [], FAMILIES, ["DATASET.SIZE=3"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["DATASET.NAME", "digits"], "DATASET.NAME digits contradicts the table: .* has DATASET.NAME world_shapes"),
        (
            ["OPTIM.EPOCHS", "1", "OPTIM.LR", "0.1"],
            "OPTIM.LR 0.1 contradicts the table: CoCoOp, digits has OPTIM.LR 0.5",
        ),
        (["DATASET.CLASSES", "base"], "DATASET.CLASSES base contradicts the table: EVAL new of CoCoOp, digits sets"),
        (["SEED", "3"], "SEED 3 contradicts the table"),
        (["OUTPUT_DIR", "out"], "OUTPUT_DIR out contradicts the table.* use --output"),
    ],
)
def test_overrides_that_contradict_the_table_are_refused(tmp_path, words, said):
    (tmp_path / "c.yaml").write_text("")
    cells = load_cells(write(tmp_path / "b.yaml", GRID))
    with pytest.raises(InputError, match=said):
        plan(cells, tmp_path, words, FAMILIES)
    assert plan(cells, tmp_path, ["DATASET.NAME", "digits"], FAMILIES, ["DATASET.NAME=digits"])
    assert plan(cells, tmp_path, ["OPTIM.LR", "0.1", "OPTIM.EPOCHS", "1"], FAMILIES, ["RUN=CoOp"])


def test_only_what_matches(tool, two_rates, tmp_path):
    status, _, err = tool("sweep", "--benchmark", two_rates, "--output", tmp_path, "--only", "lo w")
    assert status == 2 and "--only lo w: no cell" in err
    status, _, err = tool("sweep", "--benchmark", two_rates, "--output", tmp_path, "--only", "RUN=low", "SEED=1")
    assert status == 2 and "each --only takes one word: --only RUN=low --only SEED=1" in err


@pytest.fixture
def base_to_new(tmp_path):
    """Zero-shot, which can name new classes, and a linear head, which cannot."""
    run = {"DATASET.NAME": "digits", "DATASET.CLASSES": "base", "DATASET.SHOTS": 1, "OPTIM.EPOCHS": 1}
    rows = {
        "words": {"CONFIG": str(ROOT / "configs/coop/embedded_zero_shot.yaml"), **run},
        "head": {"CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml"), **run},
    }
    evals = {"new": {"DATASET.CLASSES": "new"}, "base again": {}}
    return write(tmp_path / "b.yaml", {"RUNS": rows, "EVAL": evals})


def test_every_run_is_tested_where_eval_says_and_once(tool, base_to_new, tmp_path):
    words = ["--benchmark", base_to_new, "--output", tmp_path / "out"]
    status, out, err = tool("sweep", *words)
    assert status == 2 and "1 of 6 runs failed; head, seed 1, new: " in err and "tied to the classes" in err
    assert all(column in out for column in (" base ", " new ", " H "))
    (run,), (head,) = (json.loads((tmp_path / "out/table.json").read_text())[name] for name in ("words", "head"))
    assert set(run["evals"]) == {"new", "base again"} and set(head["evals"]) == {"base again"}
    assert run["evals"]["new"]["classes"] == ["five", "six", "seven", "eight", "nine"]
    assert run["evals"]["base again"]["accuracy"] == run["accuracy"]
    stored = tmp_path / "out/words/seed1/eval-new.json"
    changed = {**json.loads(stored.read_text()), "accuracy": 12.5}
    stored.write_text(json.dumps(changed))
    _, out, _ = tool("sweep", *words)
    assert " 12.50 " in out
    stored.write_text(json.dumps({**changed, "config_hash": "of another config"}))
    tool("sweep", *words)
    assert json.loads(stored.read_text())["accuracy"] == run["evals"]["new"]["accuracy"]
