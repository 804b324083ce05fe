"""Details of runs in a real browser: the page of one run, and what a run of the page of many opens to."""

import pytest
import torch
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_diagnosis import predicted
from test_report_browser import SCRIPT
from written_runs import REPORTED

from promptvision.engine.results.predictions_file import write_predictions
from promptvision.report.page.html import write_page
from promptvision.report.page.run import Near, RunView, run_page
from promptvision.report.report import load_report

PATH = """it's "quoted"/<b>.png"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="


def test_a_run_opens_to_its_classes_confusions_images_and_settings(window, write_run_in, tmp_path):
    """Names of classes and paths are text here too, and a pointer reads each cell."""
    classes = [SCRIPT, "cat"]
    seen = write_run_in(tmp_path / "out", "seen", accuracy=200 / 3, n=3, classes=classes)
    write_run_in(tmp_path / "out", "other", dataset="eurosat")
    labels, logits = torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0], [0, 1], [0, 1]])
    write_predictions(seen / "predictions.csv", ["a.png", PATH, "c.png"], classes, logits, labels)
    write_page(load_report(tmp_path / "out"), [], tmp_path / "report.html", {"t": {PATH: PIXEL}})
    browser = window((tmp_path / "report.html").as_uri(), 1280)
    run = next(each for each in browser.find_elements(By.CLASS_NAME, "run") if "dtd" in each.text)
    run.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(browser, 10).until(lambda _: run.find_elements(By.TAG_NAME, "pre"))
    assert "Settings that differ between the runs" in run.text and "DATASET.NAME dtd" in " ".join(run.text.split())
    rows = [row.text for row in run.find_elements(By.CSS_SELECTOR, ".small tbody tr")]
    assert rows == [f"{SCRIPT} 2 50.0 9.5 to 90.5 cat (1)", "cat 1 100.0 20.7 to 100.0"]
    titles = [each.get_attribute("textContent") for each in run.find_elements(By.CSS_SELECTOR, "svg title")]
    assert any(title.endswith("→ cat: 1 of 2") for title in titles) and len(titles) == 3
    (image,) = run.find_elements(By.CSS_SELECTOR, ".cards img")
    assert image.get_attribute("title") == PATH and image.get_attribute("naturalWidth") == "1"
    assert not browser.get_log("browser")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_one_run_fits_shows_text_and_loads_nothing(window, browser, width, tmp_path):
    found = [predicted(0, 0.9, 0.1), predicted(0, 0.2, 0.8, path=PATH), predicted(1, 0.4, 0.6)]
    result = {**REPORTED, "options": {}, "n": 3, "classes": [SCRIPT, "cat"], "accuracy": 66.67}
    (tmp_path / "run.html").write_text(
        run_page(RunView("run", result, found, [], "defaults", {}, Near([], "none"), {PATH: PIXEL})), encoding="utf-8"
    )
    browser.get_log("performance")
    window((tmp_path / "run.html").as_uri(), width)
    assert browser.title == "run: run" and not browser.get_log("browser")
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests and not [each for each in requests if '"url":"http' in each]
    assert browser.execute_script("const e = document.documentElement; return e.scrollWidth - e.clientWidth") == 0
    cards = browser.find_element(By.CSS_SELECTOR, "#mistakes .cards").text
    assert SCRIPT in cards and PATH in cards and "80.0" in cards
    head = browser.find_element(By.CSS_SELECTOR, "#classes thead button")
    head.click()
    assert [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#classes tbody th")] == [SCRIPT, "cat"]
