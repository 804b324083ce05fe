"""Some settings of a grid in place of all, and runs that are pruned."""

import json

import pytest
import yaml

import vpt
from promptvision.config import load_config
from promptvision.engine.checkpoint import load_checkpoint
from promptvision.errors import InputError
from promptvision.sweep.completed import once
from promptvision.sweep.optuna_search import some_settings
from promptvision.sweep.search import Search, Tried, choose

GRID = Search("vtab", {"OPTIM.LR": [10, 1, 0.1, 0.01], "OPTIM.WEIGHT_DECAY": [0.1, 0.01, 0]}, [1])


def accuracy(setting):
    """One setting is best, neighbours are good, the largest rate diverges."""
    if setting["OPTIM.LR"] == 10:
        return None
    return {1: 80.0, 0.1: 60.0, 0.01: 40.0}[setting["OPTIM.LR"]] + {0.1: 0.0, 0.01: 5.0, 0: 2.0}[
        setting["OPTIM.WEIGHT_DECAY"]
    ]


def judge(setting, watch):
    """Ten epochs, in which the accuracy rises evenly."""
    reached = accuracy(setting)
    for epoch in range(10 if watch and reached else 0):
        if watch(epoch, {"accuracy": reached * (epoch + 1) / 10}):
            return Tried(setting, None, epoch + 1)
    return Tried(setting, reached)


def test_the_best_setting_is_found_and_none_is_judged_twice():
    judged = []
    tuned = some_settings(GRID, lambda setting, watch: judged.append(dict(setting)) or judge(setting, watch), 40)
    assert len(judged) == len(tuned) == len({tuple(setting.values()) for setting in judged}) <= 12
    assert choose(tuned) == {"OPTIM.LR": 1, "OPTIM.WEIGHT_DECAY": 0.01}
    assert [each.setting for each in tuned] == judged and not any(each.pruned for each in tuned)
    assert some_settings(GRID, judge, 40) == tuned


def test_few_trials_are_few_runs():
    tuned = some_settings(GRID, judge, 3)
    assert 1 <= len(tuned) <= 3
    assert all(each.accuracy == accuracy(each.setting) for each in tuned)


@pytest.mark.parametrize("rule", ["median", "halving"])
def test_poor_settings_are_pruned_and_the_best_never_is(rule):
    tuned = some_settings(GRID, judge, 40, rule)
    pruned = [each for each in tuned if each.pruned]
    assert pruned and all(each.accuracy is None and accuracy(each.setting) < 85 for each in pruned)
    assert choose(tuned) == {"OPTIM.LR": 1, "OPTIM.WEIGHT_DECAY": 0.01}
    assert some_settings(GRID, judge, 40, rule) == tuned
    spared = [each.pruned for each in some_settings(GRID, judge, 40, rule, spare=4) if each.pruned]
    assert min(each.pruned for each in pruned) < 5 <= min(spared)


def test_a_rule_that_there_is_not():
    with pytest.raises(InputError, match="unknown rule to prune by 'medain'; did you mean 'median'"):
        some_settings(GRID, judge, 3, "medain")


@pytest.fixture
def search(tool, tmp_path):
    """`search("--prune", "halving")` runs tools/tune.py on a few digits."""
    content = {"METHOD": {"FAMILY": "vpt", "NAME": "linear"}, "DATASET": {"NAME": "digits", "SHOTS": 8}}
    content |= {"OPTIM": {"EPOCHS": 5, "WARMUP_EPOCHS": 1}, "INPUT": {"TRAIN": "center", "TEST": "center"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    grid = {"OPTIM.LR": [1e-6, 1e-5, 0.1, 0.5], "OPTIM.WEIGHT_DECAY": [0.0, 0.01]}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({"PROTOCOL": "vtab", "GRID": grid, "SEEDS": [1]}))

    def run(*words, every=1):
        fixed = ["--config", tmp_path / "c.yaml", "--grid", tmp_path / "g.yaml", "--optuna", 12, *words]
        return tool("tune", *fixed, "OUTPUT_DIR", tmp_path / "out", "TRAIN.EVAL_EVERY", every)

    return run


def test_pruned_runs_are_recorded_as_such_and_may_be_resumed(search, tmp_path):
    status, said, err = search("--prune", "halving")
    assert status == 0, err
    found = json.loads((tmp_path / "out/search.json").read_text())
    pruned = [row for row in found["tuning"] if row["pruned"]]
    assert pruned and len(pruned) < len(found["tuning"]) and found["chosen"]["OPTIM.LR"] >= 0.1
    assert f"pruned after {pruned[0]['pruned']} epochs" in said and "diverged" not in said
    row = pruned[0]
    folder = tmp_path / "out" / "lr{:g}_weight_decay{:g}".format(*row["setting"].values())
    assert not (folder / "result.json").exists() and row["accuracy"] is None
    assert load_checkpoint(folder / "last.ckpt")["position"][:2] == (row["pruned"], 0)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("lr*/*") if path.name != "log.txt"}
    assert search("--prune", "halving")[0] == 0
    assert json.loads((tmp_path / "out/search.json").read_text())["tuning"] == found["tuning"]
    assert before == {path: path.stat().st_mtime_ns for path in before}

    assert once(load_config(folder / "config.yaml", [], {"vpt": vpt}), {"vpt": vpt})["steps"] == 10
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(10))
    assert [row["epoch"] for row in rows if "val" in row] == list(range(5))
    assert search("--prune", "halving")[0] == 0
    again = json.loads((tmp_path / "out/search.json").read_text())["tuning"]
    assert [each["accuracy"] for each in again if each["setting"] == row["setting"]][0] > 0


def test_what_pruning_needs(search):
    status, _, err = search("--prune", "median", every=0)
    assert status == 2 and "set TRAIN.EVAL_EVERY 1" in err
    status, _, err = search("--optuna", 0, "--prune", "median")
    assert status == 2 and "--prune goes with --optuna TRIALS" in err
