"""The local page that names images: its answers, where it listens, and the page itself in Chromium."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from own_images import image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from small_run import config

from promptvision.config.families import FAMILIES
from promptvision.deploy.answers import MOST
from promptvision.deploy.serve import Place, answers_of, check_gradio, free_port
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import InputError
from promptvision.experiment.run import run

ROOT = Path(__file__).parents[1]
NAMES = ["<script>document.title = 'broken'<|script>", "hen's", "red"]
WITH_PAGE = pytest.mark.skipif(find_spec("gradio") is None, reason="needs Gradio: pip install 'promptvision[serve]'")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A VPT-deep, untrained, on images of three classes, one of whose names is code."""
    root = tmp_path_factory.mktemp("served")
    for name, colour in zip(NAMES, ((1, 2, 3), (90, 90, 90), (200, 30, 30)), strict=True):
        for number in range(6):
            image(root / "images" / name / f"{number}.png", colour)
    words = ["METHOD.NAME", "prompt", "BACKBONE.NAME", "embedded", "DATASET.NAME", "folder", "OPTIM.EPOCHS", 0]
    cfg = config(root, *words, "DATASET.ROOT", str(root / "images"), "CACHE_DIR", "")
    with RunFolder(root / "run") as opened:
        run(cfg, FAMILIES, opened, progress=False)
    return root / "run"


@pytest.fixture(scope="module")
def answers(run_folder):
    return answers_of(run_folder)


def test_an_answer_names_shows_attention_and_the_nearest_training_images(answers, tmp_path):
    image(tmp_path / "own.png", (200, 30, 30))
    found = answers.about(str(tmp_path / "own.png"))
    assert found["top"] == answers.classifier(tmp_path / "own.png", 5) and len(found["top"]) == 3
    assert [near["name"] for near in found["nearest"][:2]] == ["red", "red"] and len(found["nearest"]) == 5
    page = answers([str(tmp_path / "own.png")])
    assert page.count("<img ") == 7 and "attention, last block" in page and page.count("<meter") == 3
    assert "<script" not in page and "&lt;script&gt;" in page and "hen&#39;s" in page
    assert not re.search(r'src="(?!data:image/png)', page)


def test_what_is_no_image_gets_a_sentence_and_the_others_an_answer(answers, tmp_path):
    (tmp_path / "note<b>.txt").write_text("no image")
    image(tmp_path / "own.png")
    page = answers([str(tmp_path / "note<b>.txt"), str(tmp_path / "own.png")])
    (said,) = re.findall('<p role="alert">(.*?)</p>', page)
    assert "note&lt;b&gt;.txt" in said and str(tmp_path) not in said and "own.png" in page and page.count("<meter") == 3
    assert answers(None) == answers([]) and "<section" not in answers([])


def test_too_many_files_are_named(answers, tmp_path):
    (tmp_path / "note.txt").write_text("no image")
    page = answers([str(tmp_path / "note.txt")] * (MOST + 1))
    assert page.count("<section") == MOST + 1 and f"only the first {MOST} of {MOST + 1} files were looked at" in page


def test_without_training_images_no_neighbours_are_shown(run_folder, tmp_path, caplog):
    shutil.copytree(run_folder, tmp_path / "run")
    text = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(text.replace(str(run_folder.parent / "images"), str(tmp_path / "gone")))
    found = answers_of(tmp_path / "run")
    image(tmp_path / "own.png")
    assert found.neighbours is None and "No nearest training images are shown: " in caplog.text
    assert "Nearest training images" not in found([str(tmp_path / "own.png")])


def test_a_busy_port_and_a_missing_gradio_are_sentences(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127.0.0.1:{port} \(.*\); choose another --port"):
            free_port(Place(port=port))
    assert free_port(Place(port=0)) > 0
    with pytest.raises(InputError, match="cannot listen on 127.0.0.1:70000"):
        free_port(Place(port=70000))
    monkeypatch.setattr("promptvision.deploy.serve.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'promptvision\[serve\]'"):
        check_gradio()


@pytest.fixture(scope="module")
def server(run_folder):
    """The address of a running server."""
    words = [sys.executable, str(ROOT / "tools/serve.py"), "--run", str(run_folder), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    line = process.stdout.readline()
    yield re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.endswith("ended\n") and "Traceback" not in err and process.returncode == 0


@pytest.mark.slow
@WITH_PAGE
@pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Chromium and its driver")
def test_an_image_dropped_on_the_page_is_named(server, browser, tmp_path):
    image(tmp_path / "own.png", (200, 30, 30))
    (tmp_path / "note.txt").write_text("no image")
    browser.get(server)
    drop = WebDriverWait(browser, 60).until(lambda page: page.find_element(By.CSS_SELECTOR, "input[type=file]"))
    drop.send_keys(f"{tmp_path / 'own.png'}\n{tmp_path / 'note.txt'}")
    WebDriverWait(browser, 60).until(lambda page: "%" in page.find_element(By.ID, "answers").text)
    shown = browser.find_elements(By.CSS_SELECTOR, "#answers .answer")
    assert "red" in shown[0].text and "%" in shown[0].text and len(shown[0].find_elements(By.TAG_NAME, "meter")) == 3
    assert "note.txt" in shown[1].text and "image" in shown[1].text and browser.title != "broken"
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["response"]["url"] for each in asked if each["method"] == "Network.responseReceived"]
    elsewhere = [url for url in sent if url.startswith(("http", "ws")) and not url.startswith(server)]
    assert any(url.startswith(server) for url in sent) and not elsewhere
