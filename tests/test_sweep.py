"""Benchmarks: what a file crosses, that a failure stops nothing, and that nothing is done twice."""

import functools
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from yacs.config import CfgNode

import coop
import vpt
from promptvision.data.cards import load_card
from promptvision.errors import InputError
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import Job, Outcome, plan
from promptvision.sweep.local import Event
from promptvision.sweep.progress import Board
from promptvision.sweep.run import work_off

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
    cells = load_cells(write(tmp_path / "b.yaml", {"RUNS": runs, "GRID": grid}))
    assert [cell.name for cell in cells[:3]] == ["a, dtd, 1", "b, dtd, 1", "a, dtd, 16"] and len(cells) == 8
    assert cells[0].overrides == {"DATASET.NAME": "dtd", "DATASET.SHOTS": 1, "OPTIM.LR": 1}
    assert cells[0].config == tmp_path / "x.yaml"
    assert len({cell.folder for cell in cells}) == 8


@pytest.mark.parametrize("path", sorted((ROOT / "configs/benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_is_in_order(path):
    cells = [replace(cell, seeds=cell.seeds[:1]) for cell in load_cells(path)]
    jobs = plan(cells, "out", [], FAMILIES)
    for cfg in (cfg for job in jobs for cfg in (job.cfg, *job.evals.values())):
        for name in cfg.CONTINUAL.DATASETS or [cfg.DATASET.NAME]:
            load_card(name)
    assert len({job.cfg.OUTPUT_DIR for job in jobs}) == len(jobs)


def test_the_embedded_benchmarks_have_every_method():
    files = [ROOT / f"configs/benchmarks/{name}.yaml" for name in ("embedded", "embedded_others")]
    jobs = [job for file in files for job in plan(load_cells(file), "out", [], FAMILIES)]
    asked = {(job.cfg.METHOD.FAMILY, job.cfg.METHOD.NAME) for job in jobs}
    known = {(family, name) for family, module in FAMILIES.items() for name in module.METHODS}
    # the embedded tower is no Swin; layer_pools repeats DualPrompt and L2P as another code has them
    assert known - asked == {("vpt", "swin_prompt"), ("vpt", "layer_pools")}


@pytest.mark.parametrize(
    ("name", "cell", "expected"),
    [
        ("coop_fewshot_rn50", "CoOp, M=16, end, dtd, 1", {"EPOCHS": 50}),
        ("coop_fewshot_rn50", "CoOp, M=16, mid, CSC, dtd, 4", {"EPOCHS": 100}),
        ("coop_fewshot_rn50", "CoOp, M=16, end, imagenet, 16", {"EPOCHS": 50}),
        ("coop_fewshot_rn50", "CoOp, M=16, end, dtd, 16", {"EPOCHS": 200}),
        ("base_to_new", "CoOp, imagenet", {"EPOCHS": 50, "BATCH_SIZE": 32}),
        ("base_to_new", "CoOp, dtd", {"EPOCHS": 200}),
        ("base_to_new", "CoCoOp, imagenet", {"EPOCHS": 10, "BATCH_SIZE": 1}),
    ],
)
def test_published_settings(name, cell, expected):
    jobs = plan(load_cells(ROOT / f"configs/benchmarks/{name}.yaml"), "out", [], FAMILIES, only=[cell])
    jobs = [job for job in jobs if job.name == cell]
    assert [job.cfg.SEED for job in jobs] == [1, 2, 3]
    assert all({key: job.cfg.OPTIM[key] for key in expected} == expected for job in jobs)


@pytest.mark.parametrize(
    ("name", "cell", "expected"),
    [
        ("coop_fewshot_rn50", "PLOT, dtd, 8", {"OPTIM.EPOCHS": 200, "OPTIM.BATCH_SIZE": 128}),
        ("coop_fewshot_rn50", "PLOT, oxford_flowers, 4", {"OPTIM.EPOCHS": 100, "OPTIM.BATCH_SIZE": 32}),
        ("coop_fewshot_rn50", "PLOT, imagenet, 2", {"OPTIM.EPOCHS": 50, "METHOD.OPTIONS.POOLED": True}),
        ("base_to_new", "TPT, dtd", {"METHOD.OPTIONS.AUGMIX": True, "METHOD.OPTIONS.CROPS": "file"}),
        ("base_to_new", "TPT, imagenet", {"METHOD.OPTIONS.AUGMIX": False, "METHOD.OPTIONS.CROPS": "file"}),
        ("coop_fewshot_rn50", "CLAP, dtd, 1", {"OPTIM.EPOCHS": 300}),
        ("coop_fewshot_rn50", "LP++, imagenet, 2", {"METHOD.OPTIONS.EPOCHS": 300, "DATASET.VALIDATION": "held_out"}),
        ("coop_fewshot_rn50", "PLOT, food101, 1", {"OPTIM.EPOCHS": 50, "METHOD.OPTIONS.POOLED": False}),
    ],
)
def test_published_settings_by_data_set(name, cell, expected):
    jobs = plan(load_cells(ROOT / f"configs/benchmarks/{name}.yaml"), "out", [], FAMILIES, only=[cell])
    for key, value in expected.items():
        found = {functools.reduce(getattr, key.split("."), job.cfg) for job in jobs if job.name == cell}
        assert found == {value}, key


def test_the_two_tables_of_rn50_share_their_runs():
    """With one --output, GDA, LP++ and CLAP are trained once: their folders and configs are the same in both."""
    files = [ROOT / f"configs/benchmarks/{name}.yaml" for name in ("coop_fewshot_rn50", "adapters_fewshot_rn50")]
    only = ["DATASET.NAME=dtd", "DATASET.SHOTS=4", "SEED=1"]
    first, second = (plan(load_cells(file), "out", [], FAMILIES, only) for file in files)
    shared = {job.cfg.OUTPUT_DIR: job.cfg for job in first}
    both = [job for job in second if job.cfg.OUTPUT_DIR in shared]
    assert {job.name.partition(",")[0] for job in both} == {"GDA", "LP++", "CLAP"}
    assert all(shared[job.cfg.OUTPUT_DIR] == job.cfg for job in both)


def test_a_row_that_settles_a_key_of_the_grid_is_not_crossed_with_it(tmp_path):
    runs = {"a": {"CONFIG": "x.yaml", "DATASET.SHOTS": 0, "SEEDS": [7]}, "b": {"CONFIG": "y.yaml"}}
    content = {"RUNS": runs, "GRID": {"DATASET.NAME": ["dtd", "digits"], "DATASET.SHOTS": [1, 16]}, "SEEDS": [1, 2]}
    cells = load_cells(write(tmp_path / "b.yaml", content))
    assert [cell.name for cell in cells if cell.name[0] == "a"] == ["a, dtd", "a, digits"] and len(cells) == 6
    assert cells[0].overrides == {"DATASET.NAME": "dtd", "DATASET.SHOTS": 0}
    assert [list(cell.seeds) for cell in cells[:2]] == [[7], [1, 2]]


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


def test_what_cells_set(tmp_path):
    setting = [{"OPTIM.EPOCHS": 5}, {"OPTIM.EPOCHS": 7, "WHEN": {"RUN": "a", "DATASET.SHOTS": [1, 2]}}]
    runs = {"a": {"CONFIG": "x.yaml", "OPTIM.EPOCHS": 1}, "b": {"CONFIG": "x.yaml"}}
    path = write(tmp_path / "b.yaml", {"RUNS": runs, "GRID": {"DATASET.SHOTS": [1, 4]}, "SET": setting})
    found = {cell.name: cell.overrides["OPTIM.EPOCHS"] for cell in load_cells(path)}
    assert found == {"a, 1": 7, "b, 1": 5, "a, 4": 5, "b, 4": 5}


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


def test_keys_that_change_together(tmp_path):
    grid = {"DATASET.SOURCE DATASET.TARGET": [["photo", "sketch"], ["sketch", "photo"]], "DATASET.SHOTS": [0]}
    path = write(tmp_path / "b.yaml", {"RUNS": {"a": {"CONFIG": "x.yaml"}}, "GRID": grid})
    cells = load_cells(path)
    assert [cell.name for cell in cells] == ["a, 0, photo -> sketch", "a, 0, sketch -> photo"]
    assert cells[1].overrides == {"DATASET.SOURCE": "sketch", "DATASET.TARGET": "photo", "DATASET.SHOTS": 0}


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
        ({"RUNS": {"a": {"CONFIG": "x", "SEEDS": [0.5]}}}, "SEEDS is a list of whole numbers"),
        ({"PARTS": {"a": "x.yaml"}, "SEEDS": [1]}, "PARTS takes a name: path"),
        ({"PARTS": ["x.yaml"]}, "PARTS takes a name: path"),
    ],
)
def test_bad_benchmarks(tmp_path, content, sentence):
    with pytest.raises(InputError, match=sentence):
        load_cells(write(tmp_path / "b.yaml", content))


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


def test_only_takes_a_row_whose_name_ends_in_quotes(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    rows = {'CoOp, "a photo"': {"CONFIG": "c.yaml"}, "CoOp": {"CONFIG": "c.yaml"}}
    cells = load_cells(write(tmp_path / "b.yaml", {"RUNS": rows, "SEEDS": [1]}))
    assert [job.name for job in plan(cells, tmp_path, [], FAMILIES, ['RUN=CoOp, "a photo"'])] == ['CoOp, "a photo"']


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
