"""Notes where runs of one protocol saw other images, and the tables of one run for a terminal."""

import pytest
from rich.console import Console

from promptvision.report.comparable import ON_ALL, ON_TEST, averageable, notes
from promptvision.report.tables.terminal import matrix_table, measures_table, run_table, search_table, worst_classes


def result(seed=1, accuracy=50.0, train="a", test="t", **changes):
    """Fields of a result.json that a table reads."""
    protocol = {"SHOTS": 16, "CLASSES": "base", "VALIDATION": "own", "SOURCE": "", "TARGET": "", "HELD_OUT": 0.0}
    return {
        "seed": seed,
        "accuracy": accuracy,
        "per_class_mean": accuracy,
        "macro_f1": accuracy,
        "ece": 5.0,
        "seconds": 1.0,
        "learned_parameters": 10,
        "backbone_parameters": 1000,
        "n": 100,
        "split": "test",
        "dataset": "digits",
        "class_subset": "base",
        "train_hash": f"{train}{seed}",
        "test_hash": test,
        "evals": {},
        "protocol": {**protocol, **changes},
    }


def printed(table):
    console = Console(width=160)
    with console.capture() as caught:
        console.print(table)
    return " ".join(caught.get().split())


def test_runs_of_the_same_images_need_no_note():
    cells = {name: [result(seed) for seed in (1, 2, 3)] for name in ("zero-shot", "CoOp")}
    assert notes(cells) == {"zero-shot": [], "CoOp": []}


def test_other_training_images_of_the_same_protocol_and_seed_are_noted():
    cells = {"zero-shot": [result(1), result(2)], "CoOp": [result(1), result(2, train="b")]}
    assert notes(cells) == {
        "zero-shot": [],
        "CoOp": ["trained on other images than zero-shot, with the same protocol"],
    }


@pytest.mark.parametrize("change", [{"SHOTS": 8}, {"CLASSES": "all"}, {"FEW_SHOT": "clip_lora"}, {"SOURCE": "art"}])
def test_another_protocol_may_have_other_training_images(change):
    assert notes({"a": [result()], "b": [result(train="b", **change)]})["b"] == []


def test_other_test_images_are_noted_whatever_was_trained_on():
    cells = {"a": [result()], "b": [result(seed=2, test="u", SHOTS=4, VALIDATION="none")]}
    assert notes(cells)["b"] == ["tested on other images than a, with the same protocol"]
    assert notes({"a": [result()], "b": [result(test="u", TARGET="art")]})["b"] == []
    assert notes({"a": [result()], "b": [{**result(test="u"), "dataset": "mnist"}]})["b"] == []


def test_runs_tested_on_different_images_are_not_averageable():
    runs = [result(1, 60.0), result(2, 70.0, test="u")]
    assert not averageable(runs) and averageable(runs[:1])
    assert notes({"CoOp": runs}) == {
        "CoOp": ["tested on other images than a run of the same row, with the same protocol"]
    }


def test_selection_on_test_images_is_noted():
    for chosen in (result(VALIDATION="test"), {**result(), "selected_on_test": True}):
        assert notes({"a": [result()], "b": [chosen, chosen]})["b"] == [ON_TEST]
        assert notes({"a": [result(TRAIN_CLASSES="same")], "b": [result(TRAIN_CLASSES="all")]})["b"] == [ON_ALL]
    assert "selected on" in printed(run_table(chosen))
    assert "selected on" not in printed(run_table(result()))


def test_a_run_has_two_decimals_and_its_hardest_classes():
    run = {**result(accuracy=61.254), "classes": ["a", "b", "c"], "per_class": [50.0, None, 12.345]}
    assert "accuracy │ 61.25" in printed(run_table(run))
    assert "c │ 12.35 │ │ a │ 50.00" in printed(worst_classes(run))


def test_a_stream_is_a_matrix_and_its_measures():
    tasks = {"tasks": [{"name": "1"}, {"name": "2"}], "matrix": [[90.0], [80.0, 85.5]], "continual": {"JOINT": False}}
    run = {**result(), **tasks, "forgetting": 10.0}
    assert "│ 1 │ 90.00 │ │ │ 2 │ 80.00 │ 85.50 │" in printed(matrix_table(run))
    assert "forgetting │ 10.00" in printed(measures_table(run))
    joint = {**run, "continual": {"JOINT": True}, "matrix": [[80.0, 85.5]]}
    assert "│ all tasks │ 80.00 │ 85.50 │" in printed(matrix_table(joint))


def test_a_search_lists_the_best_setting_first():
    tried = [(0.1, None, 1), (1.0, 50.0, 0), (10.0, None, 0), (5.0, 60.0, 0)]
    rows = [{"setting": {"OPTIM.LR": lr}, "accuracy": accuracy, "pruned": pruned} for lr, accuracy, pruned in tried]
    out = printed(search_table(rows, {"OPTIM.LR": 5.0}))
    assert "│ 5 │ 60.00 │ │ 1 │ 50.00 │ │ 0.1 │ pruned after 1 epoch │ │ 10 │ diverged │" in out
