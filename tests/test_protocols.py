"""VPT's search protocols: what is tried, what is chosen, what is tested, and that nothing is done twice."""

import json
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml

import coop
import vpt
from promptvision.config import load_config
from promptvision.data.splits import subset_hash
from promptvision.errors import InputError
from promptvision.experiment.data import load_data
from promptvision.sweep.search import Search, Tried, choose, load_search, search

ROOT = Path(__file__).parents[1]
FAMILIES = {"vpt": vpt, "coop": coop}
CONFIG = """
METHOD: {FAMILY: vpt, NAME: linear}
DATASET: {NAME: digits, SHOTS: 2}
OPTIM: {EPOCHS: 3, WARMUP_EPOCHS: 0}
INPUT: {TRAIN: center, TEST: center}
"""
LR, DECAY = "OPTIM.LR", "OPTIM.WEIGHT_DECAY"
GRIDS_OF = {"dtl_plus": "dtl", "fact_tk": "fact", "fact_tt": "fact", "houlsby": "adapter", "pfeiffer": "adapter"}
GRIDS_OF |= {"fact_convpass": "fact", "repadapter": "repadapter", "adaptformer": "adapter", "adapters": "adapter"}
GRIDS_OF |= {"lora": "lora"}
"""Ends of the names of grids that set options, and their methods."""


def setting(lr, decay=0.0):
    return {LR: lr, DECAY: decay}


@pytest.fixture
def configure(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)

    def make(changes):
        return load_config(tmp_path / "c.yaml", [word for pair in changes.items() for word in pair], FAMILIES)

    return make


def test_settings_come_large_rates_first():
    find = Search("vtab", {LR: [0.1, 5, 1], DECAY: [0, 0.01]}, [1])
    pairs = [(s[LR], s[DECAY]) for s in find.settings()]
    assert pairs == [(5, 0.01), (5, 0), (1, 0.01), (1, 0), (0.1, 0.01), (0.1, 0)]


def test_ties_go_to_the_smaller_rate_and_then_to_the_first_found():
    tuned = [Tried(setting(10), 50.0), Tried(setting(5, 0.01), 70.0), Tried(setting(1, 0.01), 70.0)]
    tuned += [Tried(setting(1), 70.0)]
    assert choose(tuned) == setting(1, 0.01)
    assert choose([*tuned, Tried(setting(0.1), None, pruned=3)]) == setting(1, 0.01)
    assert choose([*tuned, Tried(setting(50), 70.1)]) == setting(50)
    with pytest.raises(InputError, match="every setting of the grid diverged"):
        choose([Tried(setting(10), None)])


def hashes(folder, cfg):
    return json.loads((folder / "result.json").read_text())["train_hash"], subset_hash(load_data(cfg).images.train)


def test_vtab_trains_the_choice_on_all_images_and_tests_it_once_per_seed(tmp_path, configure):
    find = Search("vtab", {LR: [0.5, 1e-6], DECAY: [0.0]}, [42, 44])
    found = search(find, configure, FAMILIES, tmp_path / "out")
    assert found["chosen"] == setting(0.5)
    assert [run["split"] for run in found["runs"]] == ["test", "test"] and [r["seed"] for r in found["runs"]] == [
        42,
        44,
    ]
    assert [run["pictures"]["train"] for run in found["runs"]] == [40, 40]
    tuned = [
        json.loads((tmp_path / "out" / f"lr{lr}_weight_decay0" / "result.json").read_text()) for lr in ("0.5", "1e-06")
    ]
    assert [run["split"] for run in tuned] == ["val", "val"] and tuned[0]["pictures"]["train"] == 20
    assert [row["accuracy"] for row in found["tuning"]] == [run["accuracy"] for run in tuned]


def test_fgvc_tests_the_best_epoch(tmp_path, configure):
    found = search(Search("fgvc", {LR: [0.5], DECAY: [0.0]}, [1]), configure, FAMILIES, tmp_path)
    (run,) = found["runs"]
    assert run["split"] == "test" and run["pictures"]["train"] == 20
    assert run["best_val_accuracy"] == found["tuning"][0]["accuracy"]


def test_what_is_finished_is_not_done_again(tmp_path, configure):
    find = Search("vtab", {LR: [0.5], DECAY: [0.0]}, [1])
    first = search(find, configure, FAMILIES, tmp_path)
    result = tmp_path / "lr0.5_weight_decay0/result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "accuracy": 12.5}))
    again = search(find, configure, FAMILIES, tmp_path)
    assert again["tuning"][0]["accuracy"] == 12.5 and again["runs"] == first["runs"]

    def other(changes):
        return configure({**changes, "OPTIM.EPOCHS": 2})

    with pytest.raises(InputError, match="OPTIM.EPOCHS was 3, here it is 2"):
        search(find, other, FAMILIES, tmp_path)
    assert search(find, other, FAMILIES, tmp_path, overwrite=True)["tuning"][0]["accuracy"] != 12.5


def test_a_setting_that_diverges_does_not_end_the_search(tmp_path, configure):
    find = Search("vtab", {LR: [1e6, 0.5], DECAY: [1e6, 0.0]}, [1])

    def longer(changes):
        return configure({**changes, "OPTIM.EPOCHS": 10})

    found = search(find, longer, FAMILIES, tmp_path)
    assert found["tuning"][0]["accuracy"] is None and found["chosen"][DECAY] == 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs/vpt/grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_is_in_order(path, configure):
    find = load_search(path)
    name = next((name for end, name in GRIDS_OF.items() if path.stem.endswith(end)), "linear")
    for changes in find.settings():
        configure({"METHOD.NAME": name, **changes})
    shared = [key for key in find.grid if not key.startswith("METHOD.OPTIONS.")]
    assert shared == ([LR] if "_dtl" in path.stem else [LR, DECAY])
    assert name != "linear" or list(find.grid) == shared


def test_published_grids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find = load_search("vpt/grids/vtab_prompt.yaml")
    assert (
        len(find.settings()) == 40 and find.settings()[0] == setting(50, 0.01) and find.seeds == [42, 44, 82, 100, 800]
    )
    assert len(load_search(ROOT / "configs/vpt/grids/fgvc_prompt.yaml").settings()) == 36


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"PROTOCOL": "vtap"}, "did you mean 'vtab'"),
        ({"SEEDS": []}, "SEEDS needs at least one whole number"),
        ({"SEEDS": None}, "must hold PROTOCOL"),
        ({"GRID": {LR: []}}, "GRID needs a list of values"),
        ({"GRID": {LR: ["big"]}}, "OPTIM.LR needs a list of numbers"),
    ],
)
def test_bad_grids(tmp_path, change, sentence):
    content = {"PROTOCOL": "vtab", "GRID": {LR: [1.0]}, "SEEDS": [1], **change}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=sentence):
        load_search(tmp_path / "grid.yaml")


def test_a_grid_that_is_not_there():
    with pytest.raises(InputError, match=r"grid nowhere.yaml does not exist"):
        load_search("nowhere.yaml")


def test_the_tool_prints_and_draws_the_search(tool, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "grid.yaml").write_text(
        yaml.safe_dump({"PROTOCOL": "vtab", "GRID": {LR: [0.5, 0.1], DECAY: [0, 0.1]}, "SEEDS": [1, 2]})
    )
    words = ["--config", tmp_path / "c.yaml", "--grid", tmp_path / "grid.yaml", "OUTPUT_DIR", tmp_path / "out"]
    status, out, err = tool("tune", *words)
    assert status == 0, err
    found = json.loads((tmp_path / "out/search.json").read_text())
    assert len(found["tuning"]) == 4 and len(found["runs"]) == 2
    assert "validation accuracy" in out and "as in a search, are in no table: 4." in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith(" linear head")]
    accuracies = [run["accuracy"] for run in found["runs"]]
    assert row[2:5] == [f"{mean(accuracies):.2f}", "±", f"{stdev(accuracies):.2f}"]
    assert (tmp_path / "out/search.png").stat().st_size > 5000 and (tmp_path / "out/search.svg").exists()
