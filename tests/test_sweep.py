"""Benchmarks: what a file crosses, that a failure stops nothing, and that nothing is done twice."""

import json
from pathlib import Path

import pytest
import yaml

import coop
import vpt
from promptvision.benchmark import load_benchmark
from promptvision.config import load_config
from promptvision.data.cards import load_card
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "OPTIM.EPOCHS", "1"]


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def two_rates(tmp_path):
    row = {"CONFIG": str(ROOT / "configs/vpt/embedded_linear.yaml")}
    content = {"RUNS": {"low": {**row, "OPTIM.LR": 0.01}, "high": row}, "SEEDS": [1, 2]}
    return write(tmp_path / "b.yaml", content)


def test_rows_are_crossed_with_the_grid(tmp_path):
    runs = {"a": {"CONFIG": "x.yaml", "OPTIM.LR": 1}, "b": {"CONFIG": "y.yaml"}}
    grid = {"DATASET.NAME": ["dtd", "digits"], "DATASET.SHOTS": [1, 16]}
    cells = list(load_benchmark(write(tmp_path / "b.yaml", {"RUNS": runs, "GRID": grid})).cells())
    assert [cell.name for cell in cells[:3]] == ["a, dtd, 1", "b, dtd, 1", "a, dtd, 16"] and len(cells) == 8
    assert cells[0].overrides == {"DATASET.NAME": "dtd", "DATASET.SHOTS": 1, "OPTIM.LR": 1}
    assert cells[0].config == tmp_path / "x.yaml"
    assert len({cell.folder("out", 1) for cell in cells}) == 8


@pytest.mark.parametrize("path", sorted((ROOT / "configs/benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_is_in_order(path):
    benchmark = load_benchmark(path)
    for cell in benchmark.cells():
        for changes in ({}, *benchmark.evals.values()):
            words = [word for pair in {**cell.overrides, **changes}.items() for word in pair]
            load_card(load_config(cell.config, words, FAMILIES).DATASET.NAME)


def test_keys_that_change_together(tmp_path):
    grid = {"DATASET.SOURCE DATASET.TARGET": [["photo", "sketch"], ["sketch", "photo"]], "DATASET.SHOTS": [0]}
    path = write(tmp_path / "b.yaml", {"RUNS": {"a": {"CONFIG": "x.yaml"}}, "GRID": grid})
    cells = list(load_benchmark(path).cells())
    assert [cell.name for cell in cells] == ["a, 0, photo -> sketch", "a, 0, sketch -> photo"]
    assert cells[1].overrides == {"DATASET.SOURCE": "sketch", "DATASET.TARGET": "photo", "DATASET.SHOTS": 0}


def test_a_sweep_prints_its_table_and_keeps_what_is_done(tool, two_rates, tmp_path):
    words = ["--benchmark", two_rates, "--output", tmp_path / "out", *QUICK]
    status, out, err = tool("sweep", *words)
    assert status == 0 and "low" in out and "high" in out, err
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
    assert status == 2 and "1 of 2 runs failed; missing, seed 1:" in err and "fine" in out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"RUN": {}}, "did you mean 'RUNS'"),
        ({"SEEDS": [1]}, "needs RUNS"),
        ({"RUNS": {"a": {"OPTIM.LR": 1}}}, "needs RUNS"),
        ({"RUNS": {"a": {"CONFIG": "x"}}, "GRID": {"OPTIM.LR": []}}, "GRID needs a list"),
        ({"RUNS": {"a": {"CONFIG": "x"}}, "SEEDS": ["one"]}, "SEEDS is a list of whole numbers"),
        ({"RUNS": {"a": {"CONFIG": "x"}}, "EVAL": ["new"]}, "EVAL needs a name"),
        ({"RUNS": {"a": {"CONFIG": "x"}}, "GRID": {"SEED OPTIM.LR": [[1, 2, 3]]}}, "must be a list of 2 values"),
        ([1], "should hold KEY: value lines"),
    ],
)
def test_bad_benchmarks(tmp_path, content, sentence):
    with pytest.raises(InputError, match=sentence):
        load_benchmark(write(tmp_path / "b.yaml", content))


def test_only_what_matches(tool, two_rates, tmp_path):
    status, _, err = tool("sweep", "--benchmark", two_rates, "--output", tmp_path, "--only", "lo w")
    assert status == 2 and "--only lo w: no cell" in err


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
    assert all(column in out for column in (" base ", " new ", " H ", " mean "))
    (run,), (head,) = (json.loads((tmp_path / "out/table.json").read_text())[name] for name in ("words", "head"))
    assert set(run["evals"]) == {"new", "base again"} and set(head["evals"]) == {"base again"}
    assert run["evals"]["new"]["classes"] == ["five", "six", "seven", "eight", "nine"]
    assert run["evals"]["base again"]["accuracy"] == run["accuracy"]
    stored = tmp_path / "out/words/seed1/eval-new.json"
    changed = {**json.loads(stored.read_text()), "accuracy": 12.5}
    stored.write_text(json.dumps(changed))
    _, out, _ = tool("sweep", *words)
    assert "12.5" in out
    stored.write_text(json.dumps({**changed, "config_hash": "of another config"}))
    tool("sweep", *words)
    assert json.loads(stored.read_text())["accuracy"] == run["evals"]["new"]["accuracy"]
