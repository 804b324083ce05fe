"""Tables: mean and deviation, harmonic means, and footnotes where runs of one protocol saw other images."""

import pytest
from rich.console import Console

from promptvision.report.comparable import ON_TEST, footnotes, notes
from promptvision.report.tables.terminal import run_table, seeds_table
from promptvision.report.transfer import harmonic_mean, scores, transfer_table


def result(seed=1, accuracy=50.0, train="a", test="t", **changes):
    """What a table reads of a result.json."""
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
    assert footnotes(notes(cells)) == ({"zero-shot": "zero-shot", "CoOp": "CoOp"}, "")
    out = printed(seeds_table(cells))
    assert "50.0 ± 0.0" in out and "[1]" not in out


def test_other_training_images_of_the_same_protocol_and_seed_are_told():
    cells = {"zero-shot": [result(1), result(2)], "CoOp": [result(1), result(2, train="b")]}
    assert notes(cells) == {
        "zero-shot": [],
        "CoOp": ["trained on other images than zero-shot, with the same protocol"],
    }
    out = printed(seeds_table(cells))
    assert "CoOp [1]" in out and "[1] trained on other images than zero-shot" in out and "zero-shot [1]" not in out


@pytest.mark.parametrize("change", [{"SHOTS": 8}, {"CLASSES": "all"}, {"FEW_SHOT": "clip_lora"}, {"SOURCE": "art"}])
def test_another_protocol_may_have_other_training_images(change):
    assert notes({"a": [result()], "b": [result(train="b", **change)]})["b"] == []


def test_other_test_images_are_told_whatever_was_trained_on():
    cells = {"a": [result()], "b": [result(seed=2, test="u", SHOTS=4, VALIDATION="none")]}
    assert notes(cells)["b"] == ["tested on other images than a, with the same protocol"]
    assert notes({"a": [result()], "b": [result(test="u", TARGET="art")]})["b"] == []
    assert notes({"a": [result()], "b": [{**result(test="u"), "dataset": "mnist"}]})["b"] == []


def test_runs_tested_on_different_images_are_not_averaged():
    out = printed(seeds_table({"CoOp": [result(1, 60.0), result(2, 70.0, test="u")]}))
    assert "60.0 | 70.0" in out and "65.0" not in out and "±" not in out
    assert "[1] tested on other images than a run of the same row, with the same protocol" in out


def test_selection_on_test_images_is_told():
    chosen = result(VALIDATION="test")
    assert notes({"a": [result()], "b": [chosen, chosen]})["b"] == [ON_TEST]
    assert f"[1] {ON_TEST}" in printed(seeds_table({"b": [chosen]}))
    assert "selected on" in printed(run_table(chosen)) and "selected on" not in printed(run_table(result()))


def test_harmonic_mean():
    """CoCoOp's table 1: 80.47 and 71.69 on average over eleven data sets give 75.83."""
    assert harmonic_mean(80.47, 71.69) == pytest.approx(75.83, abs=0.005)
    assert harmonic_mean(0, 0) == 0


def test_scores_of_a_run():
    run = {**result(accuracy=80.0), "evals": {"new": result(accuracy=60.0), "old": result(accuracy=20.0)}}
    assert scores(run, ["new", "old"]) == {"base": 80, "new": 60, "old": 20, "H": pytest.approx(68.5714), "mean": 40}
    del run["evals"]["old"]
    assert scores(run, ["new", "old"]).keys() == {"base", "new", "H"}
    assert scores({**run, "class_subset": "all"}, ["new"]) == {"source": 80, "new": 60}


def test_a_table_of_transfers():
    new = {"new": result(accuracy=60.0, test="n", CLASSES="new")}
    cells = {"a": [{**result(seed), "evals": new} for seed in (1, 2)], "b": [result()]}
    out = printed(transfer_table(cells))
    assert "50.0 ± 0.0 │ 60.0 ± 0.0 │ 54.5 ± 0.0" in out and "│ 50.0 │ - │ - │ 1 │" in out
    cells["b"] = [{**result(), "evals": {"new": result(accuracy=60.0, test="other", CLASSES="new")}}]
    assert "[1] tested on other images than a" in printed(transfer_table(cells))
