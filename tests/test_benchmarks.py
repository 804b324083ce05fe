"""Benchmarks: what a file crosses, and the published settings of those in `configs/`."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import coop
import vpt
from promptvision.data.cards import load_card
from promptvision.errors import InputError
from promptvision.sweep.benchmark import load_cells
from promptvision.sweep.jobs import plan
from promptvision.sweep.search import load_search

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


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
def test_published_settings_by_dataset(name, cell, expected):
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


def test_what_cells_set(tmp_path):
    setting = [{"OPTIM.EPOCHS": 5}, {"OPTIM.EPOCHS": 7, "WHEN": {"RUN": "a", "DATASET.SHOTS": [1, 2]}}]
    runs = {"a": {"CONFIG": "x.yaml", "OPTIM.EPOCHS": 1}, "b": {"CONFIG": "x.yaml"}}
    path = write(tmp_path / "b.yaml", {"RUNS": runs, "GRID": {"DATASET.SHOTS": [1, 4]}, "SET": setting})
    found = {cell.name: cell.overrides["OPTIM.EPOCHS"] for cell in load_cells(path)}
    assert found == {"a, 1": 7, "b, 1": 5, "a, 4": 5, "b, 4": 5}


def test_keys_that_change_together(tmp_path):
    grid = {"DATASET.SOURCE DATASET.TARGET": [["photo", "sketch"], ["sketch", "photo"]], "DATASET.SHOTS": [0]}
    path = write(tmp_path / "b.yaml", {"RUNS": {"a": {"CONFIG": "x.yaml"}}, "GRID": grid})
    cells = load_cells(path)
    assert [cell.name for cell in cells] == ["a, 0, photo -> sketch", "a, 0, sketch -> photo"]
    assert cells[1].overrides == {"DATASET.SOURCE": "sketch", "DATASET.TARGET": "photo", "DATASET.SHOTS": 0}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"RUN": {}}, "did you mean 'RUNS'"),
        ({"SEEDS": [1]}, "needs RUNS"),
        ({"RUNS": {"a": {"OPTIM.LR": 1}}}, "row 'a' lacks CONFIG, the path of its config file"),
        ({"RUNS": {"a": {"CONFG": "x.yaml"}}}, "row 'a' lacks CONFIG, for which CONFG may stand"),
        ({"RUNS": {"a": {"CONFIG": "x"}}, "GRID": {"OPTIM.LR": []}}, "GRID needs a list"),
        ({"RUNS": {"a": {"CONFIG": "x"}}, "SEEDS": [1, 2, 1]}, "SEEDS has 1 twice; name each seed once"),
        ({"RUNS": {"a": {"CONFIG": "x", "SEEDS": [3, 3]}}}, "SEEDS has 3 twice; name each seed once"),
        (
            {"RUNS": {"CoOp": {"CONFIG": "x"}}, "SET": [{"SEED": 1, "WHEN": {"RUN": ["Coop"]}}]},
            "'Coop'; did you mean 'CoOp'?",
        ),
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


def test_only_takes_a_row_whose_name_ends_in_quotes(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    rows = {'CoOp, "a photo"': {"CONFIG": "c.yaml"}, "CoOp": {"CONFIG": "c.yaml"}}
    cells = load_cells(write(tmp_path / "b.yaml", {"RUNS": rows, "SEEDS": [1]}))
    assert [job.name for job in plan(cells, tmp_path, [], FAMILIES, ['RUN=CoOp, "a photo"'])] == ['CoOp, "a photo"']


@pytest.mark.parametrize(
    "content", [{"SET": [{"OPTIM.EPOCH": 3}]}, {"GRID": {"OPTIM.EPOCH": [3]}}, {"EVAL": {"new": {"OPTIM.EPOCH": 3}}}]
)
def test_a_wrong_key_of_a_benchmark_is_not_ascribed_to_the_command_line(tmp_path, content):
    file = write(tmp_path / "b.yaml", {"RUNS": {"a": {"CONFIG": str(ROOT / "configs/coop/embedded.yaml")}}, **content})
    with pytest.raises(InputError, match=f"^benchmark {file}: unknown key 'OPTIM.EPOCH'; did you mean OPTIM.EPOCHS"):
        plan(load_cells(file), tmp_path / "out", [], FAMILIES)


@pytest.mark.parametrize("load", [load_cells, load_search])
def test_a_file_that_does_not_exist_gets_the_nearest_one(tmp_path, load):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(InputError, match=r"miine.yaml does not exist; did you mean .*mine.yaml\?"):
        load(tmp_path / "miine.yaml")
    with pytest.raises(InputError, match=r"does not exist; did you mean vpt/grids/\w+.yaml\?"):
        load("vpt/grids/embeded.yaml")
