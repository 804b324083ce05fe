"""The page of many runs: ties within noise, values on hover, bars instead of a heat map of one row, a run's details."""

import pytest
import torch
from test_report_page import Parsed, unpacked

from promptvision.engine.results.predictions_file import write_predictions
from promptvision.report.collect import collect
from promptvision.report.figures.draw import drawings
from promptvision.report.page.details import changing_settings, predictions_of, sample_paths
from promptvision.report.page.html import page
from promptvision.report.report import load_report
from promptvision.report.scores import Score, over_seeds


def test_noise_of_seeds_or_of_the_images_of_one_seed_by_hand():
    """60, 62 and 64: t(0.975, 2) s / sqrt(3) = 4.3027 * 2 / 1.7321; of one 60 % on 100 images: 1.96 sqrt(24)."""
    seeds = over_seeds({1: 60.0, 2: 62.0, 3: 64.0}, images=100)
    assert seeds.noise == pytest.approx(4.968, abs=1e-3)
    single = over_seeds({1: 60.0}, images=100)
    assert single.noise == pytest.approx(9.602, abs=1e-3) and over_seeds({1: 60.0}).noise is None
    assert single.ties(over_seeds({1: 70.8}, images=100)), "10.8 < sqrt(9.602² + 8.912²) = 13.1"
    assert not single.ties(over_seeds({1: 74.0}, images=100)), "14 > sqrt(9.602² + 8.597²) = 12.9"
    assert not single.ties(Score(60.0, {})) and not single.ties(Score(None, {1: 60.0}, images=100))


def cells(text, mark):
    tags = [attributes for tag, attributes in Parsed(text).tags if tag == "td"]
    return [each for each in tags if mark in (each.get("class") or "").split()]


def test_a_tie_within_noise_is_marked_and_a_score_tells_its_seeds(write_run, tmp_path):
    for method, accuracy in (("coop", 70.0), ("cocoop", 69.5), ("gda", 50.0)):
        write_run(method, method=method, accuracy=accuracy, n=1000)
    text = page(load_report(tmp_path / "out"), [])
    assert [each["data-value"] for each in cells(text, "best")] == ["70.0"]
    (tie,) = cells(text, "tie")
    assert tie["data-value"] == "69.5" and tie["title"] == "seed 1: 69.50; 95 % interval: ± 2.85"


def test_no_heat_map_has_one_row(write_run, tmp_path):
    for dataset in ("dtd", "eurosat", "food101"):
        write_run(f"zero {dataset}", method="zero_shot", shots=0, dataset=dataset, accuracy=40.0)
        write_run(f"coop {dataset}", shots=0, dataset=dataset, accuracy=60.0)
    (drawing,) = (each for each in drawings(load_report(tmp_path / "out")) if "difference" in each.title)
    figure = drawing.make()
    assert figure.get_suptitle().replace("\n", " ").endswith("difference from zero-shot CLIP, CoOp")
    assert not figure.axes[0].images and len(figure.axes[0].patches) == 4, "three datasets and their average"
    assert drawing.about == "CoOp minus zero-shot CLIP in per cent, the largest on top."


@pytest.fixture
def seen(write_run, tmp_path):
    folder = write_run("seen", classes=["cat", "dog"], accuracy=200 / 3, n=3, config={"OPTIM.LR": 0.1})
    labels, logits = torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0], [0, 1], [0, 1]])
    write_predictions(folder / "predictions.csv", ["a.png", "b.png", "c.png"], ["cat", "dog"], logits, labels)
    write_run("other", classes=["cat", "dog"], per_class=[80.0, 40.0], config={"OPTIM.LR": 0.2}, seed=2)
    return folder


def test_a_run_opens_to_what_its_predictions_say(seen, tmp_path):
    text = page(load_report(tmp_path / "out"), [], {"t": {"b.png": "data:,"}})
    runs = unpacked(text)
    ours = next(run for run in runs if "matrix" in run)
    assert ours["classes"] == [
        ["cat", "2", "50.0", "9.5 to 90.5", "dog (1)"],
        ["dog", "1", "100.0", "20.7 to 100.0", ""],
    ]
    assert ours["matrix"] == [["cat", "dog"], [[0, 0, 1], [0, 1, 1], [1, 1, 1]]]
    assert ours["samples"] == [["b.png", "cat", "dog", "73.1"]] and ours["images"] == "t"
    assert ours["changed"] == {"OPTIM.LR": "0.1", "SEED": "1"} and "classes" in ours["folded"]
    other = next(run for run in runs if run is not ours)
    assert other["classes"] == [["dog", "", "40.0", "", ""], ["cat", "", "80.0", "", ""]] and "samples" not in other


def test_predictions_of_another_run_are_not_shown(seen, tmp_path):
    (seen / "predictions.csv").write_text(
        (seen / "predictions.csv").read_text().replace("c.png,dog,dog", "c.png,dog,cat")
    )
    runs, _ = collect(tmp_path / "out")
    assert [predictions_of(run) for run in runs] == [[], []]
    assert set(changing_settings(runs)) == {"OPTIM.LR", "SEED"}


def test_samples_are_at_equal_distances(seen, tmp_path):
    (run,) = (run for run in collect(tmp_path / "out")[0] if run.name == "seen")
    found = predictions_of(run)
    assert sample_paths(found) == ["a.png", "b.png", "c.png"] and len(sample_paths(found * 100)) == 8
