"""Predictions beside a result: what the file says, how it is written and read, and which commands write it."""

import csv
import json
from pathlib import Path

import pytest
import torch
from small_run import config

from promptvision.atomic import read_json
from promptvision.config.families import FAMILIES
from promptvision.engine.evaluate import scores
from promptvision.engine.results.predictions_file import TOP, read_predictions, write_predictions
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run

COOP = Path(__file__).parents[1] / "configs/coop/embedded.yaml"
CLASSES = ["cat", "=SUM(A1)", '<script>"it\'s"']
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
LABELS = torch.tensor([2, 0, 1])


def written(folder, paths=("a.png", "b/c,d.png", "+e.png"), classes=CLASSES, logits=LOGITS, labels=LABELS):
    write_predictions(folder / "predictions.csv", paths, classes, logits, labels)
    return folder / "predictions.csv"


def test_a_line_holds_label_prediction_and_the_most_probable_classes(tmp_path):
    """e^2, 1 and e of their sum 11.107 are 0.6652, 0.0900 and 0.2447."""
    rows = list(csv.DictReader(written(tmp_path).open(newline="")))
    assert rows[0] == {
        "path": "a.png",
        "label": CLASSES[2],
        "prediction": "cat",
        "probability": "0.665241",
        "label_probability": "0.244728",
        "class_2": CLASSES[2],
        "probability_2": "0.244728",
        "class_3": "'=SUM(A1)",
        "probability_3": "0.0900306",
    }
    assert [row["path"] for row in rows] == ["a.png", "b/c,d.png", "'+e.png"], "no cell is a formula"


def test_what_is_written_is_read(tmp_path):
    first, tie, last = read_predictions(written(tmp_path), CLASSES)
    assert (first.label, first.prediction, first.probability, first.label_probability) == (2, 0, 0.665241, 0.244728)
    assert list(first.top) == [0, 2, 1] and last.prediction == last.label == 1
    assert tie.prediction == 0 and sum(tie.top.values()) == pytest.approx(1, abs=1e-5)


def test_of_many_classes_the_first_are_kept(tmp_path):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 9, generator=generator).round(), torch.randint(9, (50,), generator=generator)
    names = [f"class {n}" for n in range(9)]
    found = read_predictions(written(tmp_path, [str(n) for n in range(50)], names, logits, labels), names)
    assert all(len(each.top) == TOP and next(iter(each.top)) == each.prediction for each in found)
    right = 100 * sum(each.prediction == each.label for each in found) / 50
    assert right == pytest.approx(scores(logits, labels)["accuracy"]), "the first of equal logits, as in the score"
    for each, probabilities in zip(found, logits.softmax(1), strict=True):
        assert each.label_probability == pytest.approx(float(probabilities[each.label]), abs=1e-6)
        assert sorted(each.top.values()) == pytest.approx(sorted(probabilities.topk(TOP).values.tolist()), abs=1e-6)


@pytest.mark.fault("parsing")
@pytest.mark.parametrize(
    "text",
    ["", "path,label\n", None, "{head}a,cat,cat,0.5\n", "{head}a,cat,dog,0.5,0.5\n", "{head}a,cat,cat,nan,0.5\n"],
)
def test_what_makes_no_sense_is_named(tmp_path, text):
    file = written(tmp_path)
    head = file.read_text().splitlines()[0] + "\n"
    file.write_bytes(b"\xff\x00" if text is None else text.replace("{head}", head).encode())
    with pytest.raises(InputError, match=r"predictions.csv holds no predictions of this run: it is damaged, or names"):
        read_predictions(file, CLASSES)
    with pytest.raises(InputError, match="predictions .*none.csv cannot be read"):
        read_predictions(tmp_path / "none.csv", CLASSES)


def test_a_run_writes_its_predictions(trained):
    folder, _ = trained
    result = read_json(folder / "result.json")
    found = read_predictions(folder / "predictions.csv", result["classes"])
    assert len(found) == result["n"] and len({each.path for each in found}) == result["n"]
    assert 100 * sum(e.prediction == e.label for e in found) / result["n"] == pytest.approx(result["accuracy"])


def test_an_evaluation_has_predictions_by_its_own_name(tool, trained):
    folder, _ = trained
    assert tool("eval", "--run", folder, "TEST.SPLIT", "val")[0] == 0
    [file] = folder.glob("eval-*.json")
    result = read_json(file)
    found = read_predictions(file.with_suffix(".csv"), result["classes"])
    assert file.stem == "eval-digits-all-val" and len(found) == result["n"] == result["pictures"]["val"]


@pytest.mark.fault("files")
def test_predictions_that_cannot_be_written_lose_no_result(tmp_path, caplog):
    (tmp_path / "run/predictions.csv").mkdir(parents=True)
    cfg = config(tmp_path, "OPTIM.EPOCHS", 0)
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config = lambda text: folder.config.write_text(text)  # which would name the folder in the way
        run(cfg, FAMILIES, folder, progress=False)
    assert "predictions.csv cannot be written: Is a directory" in caplog.text
    assert json.loads((tmp_path / "run/result.json").read_text())["n"] > 0


@pytest.mark.slow
def test_runs_of_a_sweep_and_their_tests_have_predictions_and_no_page(tool, tmp_path):
    """Also those that train together."""
    rows = {"coop": {"CONFIG": str(COOP), "OPTIM.EPOCHS": 2, "DATASET.SHOTS": 1}}
    table = {"RUNS": rows, "SEEDS": [1, 2], "EVAL": {"again": {"TEST.SPLIT": "val"}}}
    (tmp_path / "b.yaml").write_text(json.dumps(table))
    status, _, err = tool("sweep", "--config", tmp_path / "b.yaml", "--output", tmp_path / "out", "--stack", 2)
    assert status == 0, err
    for folder in (tmp_path / "out/coop/seed1", tmp_path / "out/coop/seed2"):
        assert not (folder / "run.html").exists() and read_json(folder / "result.json")["stacked"] == 2
        for result, predictions in (("result.json", "predictions.csv"), ("eval-again.json", "eval-again.csv")):
            expected = read_json(folder / result)
            found = read_predictions(folder / predictions, expected["classes"])
            right = 100 * sum(each.prediction == each.label for each in found) / expected["n"]
            assert len(found) == expected["n"] and right == pytest.approx(expected["accuracy"])


def test_another_run_removes_page_and_predictions_of_the_last_one(tmp_path):
    names = ("run.html", "result.json", "predictions.csv", "eval-new.json", "eval-new.csv", "learned.safetensors")
    for name in (*names, "mine.csv", ".predictions.csv.1234", ".run.html.1234"):
        (tmp_path / name).write_text("old")
    with RunFolder(tmp_path) as folder:
        order = [file.name for file in folder.files]
        assert order.index("run.html") < order.index("result.json") < order.index("predictions.csv")
        assert order.index("predictions.csv") < order.index("learned.safetensors")
        folder.write_config("SEED: 1")
    assert {file.name for file in Path(tmp_path).iterdir()} == {"config.yaml", "log.txt", ".lock", "mine.csv"}
