"""The page of one run: numbers against hand-computed ones, text that is only text, nothing loaded, a bounded size."""

import re

import pytest
from test_diagnosis import predicted
from test_report_page import NASTY, SCRIPT, Parsed
from written_runs import REPORTED

from promptvision.engine.results.predictions_file import Predicted
from promptvision.report.diagnosis import confusions
from promptvision.report.page.charts import FEWER, MOST_CELLS, confusion_matrix
from promptvision.report.page.run import LearnedTensor, Near, Pair, RunView, class_rows, run_page, scores, shown_paths

PATH = """it's "quoted"/<b>.png"""
PIXEL = "data:image/png;base64,iVBORw0KGgo="
FOUND = [predicted(0, 0.9, 0.1), predicted(0, 0.2, 0.8, path=PATH), predicted(1, 0.4, 0.6), predicted(1, 0.3, 0.7)]


def view(predictions=FOUND, classes=("cat", SCRIPT), **changes):
    hits = sum(each.prediction == each.label for each in predictions)
    known = {"accuracy": 100 * hits / len(predictions), "top5": 100.0, "per_class_mean": 75.0, "ece": 30.0}
    result = {**REPORTED, "options": {}, "n": len(predictions), "classes": list(classes), **known}
    given = {
        "name": "run",
        "result": result,
        "predictions": predictions,
        "learned": [LearnedTensor("ctx", [16, 128], 2048, 4.5)],
        "preset": "configs/coop/embedded.yaml",
        "changed": {"OPTIM.LR": (0.002, 0.01)},
        "near": Near([Pair("b.png", "c.png", 0.9912)], "1 of 4 test images is near"),
        "thumbnails": {PATH: PIXEL, "b.png": PIXEL, "c.png": PIXEL},
    }
    return RunView(**{**given, **changes})


def text(page):
    return " ".join(Parsed(page).text.split())


def test_every_number_on_the_page_is_the_one_computed_by_hand():
    """3 of 4 are right: Wilson's interval is 30.1 to 95.4. Bins of 0.9, 0.8 (wrong), 0.6 and 0.7 give an ECE of
    (0.1 + 0.8 + 0.4 + 0.3) / 4. t_0 = 0.55 and t_1 = 0.65: the second image, with p_1 = 0.8, looks wrong."""
    page = run_page(view())
    said = text(page)
    assert "75.00 accuracy 30.1 to 95.4" in said and "100.00 top-5 accuracy 51.0 to 100.0" in said
    assert "the mean distance of the two over the images: 40.00 %" in said
    assert "1 of 4 images are predicted wrongly." in said and f"cat {SCRIPT} 80.0 % {PATH}" in said
    assert "1 of 4 labels look wrong." in said and f"labelled cat 20.0 % {SCRIPT} 80.0 % threshold 65.0 %" in said
    assert "ctx 16 × 128 2,048 4.5 0.0994" in said, "root mean square: 4.5 / sqrt(2048)"
    assert "OPTIM.LR 0.002 0.01" in said and "cosine 0.9912" in said and "1 of 4 test images is near" in said
    assert "CoOp on ViT-B-16, dtd with 16 shots, seed 1: 4 test images of 2 classes, 2,048 learned parameters" in said


def test_classes_have_their_accuracy_interval_and_confusion():
    rows = class_rows([*FOUND, predicted(0, 0.1, 0.9)], ["cat", "dog"])
    first, second = ((row.name, row.images, round(row.accuracy, 1), row.instead, row.times) for row in rows)
    assert first == ("cat", 3, 33.3, "dog", 2) and second == ("dog", 2, 100.0, "", 0)
    assert (round(rows[0].low, 1), round(rows[0].high, 1)) == (6.1, 79.2)


def test_a_share_of_the_images_has_an_interval_and_no_other_score():
    found = {name: interval for name, _, interval in scores(view().result)}
    assert found["accuracy"] == pytest.approx((30.06, 95.44), abs=0.01)
    assert found["top-5 accuracy"] and found["calibration error (ECE)"] is None and found["mean over classes"] is None


@pytest.mark.fault("text")
def test_names_and_paths_are_shown_as_text():
    classes, changes = (NASTY, SCRIPT), {"DATASET.TEMPLATE": (NASTY, SCRIPT)}
    page = run_page(view(classes=classes, name=NASTY, preset=NASTY, changed=changes, missing=NASTY))
    parsed = Parsed(page)
    assert len(parsed.all("script")) == len(parsed.all("style")) == 1 and SCRIPT not in page
    assert not [(tag, a) for tag, a in parsed.tags if any(name.startswith("on") or name == "style" for name in a)]
    assert {image["src"] for image in parsed.all("img")} == {PIXEL}
    assert SCRIPT in parsed.text and PATH in parsed.text and NASTY in parsed.text
    assert PATH in {image["alt"] for image in parsed.all("img")}


@pytest.mark.fault("text")
def test_the_page_loads_nothing():
    page = run_page(view())
    links = [
        value for _, attributes in Parsed(page).tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert links and all(link.startswith(("data:", "#")) for link in links) and "://" not in page
    assert "default-src &#39;none&#39;; img-src data:; style-src" in page


def test_images_that_are_gone_leave_a_sentence_and_the_numbers():
    said = text(run_page(view(thumbnails={}, near=Near([], "gone"), missing="Images are not shown: no such folder.")))
    assert "Images are not shown: no such folder." in said and "no image" in said and "75.00 accuracy" in said


def test_no_mistake_is_said():
    said = text(run_page(view(predictions=[FOUND[0], FOUND[2]])))
    assert "Every image is predicted as its label." in said and "No label looks wrong." in said


def test_images_that_the_page_shows_are_named_once():
    assert shown_paths(FOUND) == [PATH]


def test_cells_are_shaded_by_the_share_of_their_row():
    matrix = confusion_matrix(confusions([*FOUND, FOUND[1]]), ["cat", "dog"])
    found = {mark.about: (mark.kind, mark.opacity, mark.text) for mark in matrix.marks}
    assert found["cat → dog: 2 of 3 images"] == ("miss", 0.51, "2"), "0.12 + 0.58 * 2 / 3"
    assert found["dog → dog: 2 of 2 images"] == ("hit", 0.7, "2") and len(found) == 3


@pytest.mark.parametrize(("classes", "shown"), [(100, 100), (1000, FEWER)])
def test_many_classes_make_a_page_of_bounded_size(classes, shown):
    names = [f"a class with a long name {number}" for number in range(classes)]
    pairs = {(a, (a * step + step) % classes): 1 + step for a in range(classes) for step in range(50)}
    matrix = confusion_matrix(pairs, names)
    assert len(matrix.names) == shown and len(matrix.marks) <= MOST_CELLS and matrix.side < 1400
    assert ("with the most mistakes of 1,000 classes" in matrix.about) == (classes > shown)
    found = [Predicted("a.png", label, wrong, 1.0, float(wrong == label), {wrong: 1.0}) for label, wrong in pairs]
    page = run_page(view(found, names, thumbnails={each.path: "data:," + "A" * 6000 for each in found}))
    assert len(page) < 3_000_000 and len(re.findall("<img", page)) <= 75
