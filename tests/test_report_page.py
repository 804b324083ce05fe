"""The page of a report: nothing from a run folder is more than text, nothing is loaded, and every run is there."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from promptvision.errors import UNSEEN
from promptvision.report.figures.draw import draw_all
from promptvision.report.page.html import page, write_page
from promptvision.report.page.runs import MOST_OF_FILE, without_folders
from promptvision.report.page.template import FILES
from promptvision.report.report import load_report

SCRIPT = "<script>alert(1)</script>"
NASTY = f"\"quoted\" 'a' {SCRIPT} </script> <img src=x onerror=alert(1)> &lt; $x$ {{{{ 7 * 7 }}}} --> ]]>"


class Parsed(HTMLParser):
    """A page as a browser parses it: its tags with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.text += data if self.inside not in ("script", "style") else ""

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def unpacked(text):
    """Return the facts and files that the page keeps of each run."""
    letters = re.search(r'<template id="packed">([A-Za-z0-9+/=]+)</template>', text)[1]
    return json.loads(gzip.decompress(base64.b64decode(letters)))


@pytest.fixture
def made(write_run, tmp_path):
    """Make the page of a few runs whose every name is an attack."""

    def make(**changes):
        for seed in (1, 2):
            test = {"new": {"class_subset": "new", "accuracy": 40.0, "classes": [SCRIPT]}}
            shared = {"classes": [NASTY, SCRIPT], "templates": [NASTY], "left_out": [NASTY], "bad_pictures": 1}
            options = {"CTX_INIT": NASTY}
            folder = write_run(f"{'<b>bold'}/{seed}", seed=seed, evals=test, options=options, **{**shared, **changes})
            (folder / "log.txt").write_text(f"{NASTY}\n\x1b[31m\x00{SCRIPT}\n")
            write_run(f"other/{seed}", seed=seed, options={"CTX_INIT": "x"}, **changes)
        report = load_report(tmp_path / "out")
        return page(report, draw_all(report, tmp_path / "figures"))

    return make


@pytest.fixture
def parsed(made):
    return Parsed(made(dataset=f"{NASTY}\u202e\x9b", backbone=f"{NASTY}\x1b[31m", method=f"{NASTY}\ud800"))


@pytest.mark.fault("text")
def test_nothing_from_a_run_is_more_than_text(parsed):
    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    assert all(attributes["src"].startswith("data:image/svg+xml;base64,") for attributes in parsed.all("img"))
    assert not [(tag, a) for tag, a in parsed.tags if any(name.startswith("on") or name == "style" for name in a)]
    assert not {"iframe", "object", "link", "base"} & {tag for tag, _ in parsed.tags}
    assert len(parsed.all("b")) == 5, "one in the line of each run, one in that of their group"
    assert NASTY in parsed.text and "<b>bold/1" in parsed.text
    assert not UNSEEN.search(parsed.text.replace("\n", "")), "names are on one line, in their own direction"


def test_what_a_run_opens_to_is_packed_as_it_is(made):
    """The page's script puts it in place as text."""
    runs = unpacked(made())
    facts, files = runs[0]["facts"], dict(runs[0]["files"])
    assert (
        len(runs) == 4 and SCRIPT in facts["classes"] and SCRIPT in files["log.txt"] and "\x1b" not in files["log.txt"]
    )
    assert "METHOD:" in files["config.yaml"] and facts["accuracy, new"] == "40"


@pytest.mark.fault("text")
def test_only_our_own_script_and_style_count(made):
    """The policy names them by the hashes of what the page holds."""
    text = made()
    policy = next(a["content"] for a in Parsed(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag, name in (("script", "script.js"), ("style", "style.css")):
        own = (FILES / name).read_text(encoding="utf-8")
        assert f"<{tag}>{own}</{tag}>" in text
        sha256 = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{sha256}'" in policy


@pytest.mark.fault("text")
def test_the_page_loads_nothing(made):
    parsed = Parsed(made())
    links = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    for image in parsed.all("img"):
        svg = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert "<script" not in svg and not re.findall(r'(?:href|src)="(?!#)', svg)


def test_tables_can_be_sorted_and_runs_are_one_click_away(made):
    parsed = Parsed(made())
    assert all(head["aria-sort"] == "none" for head in parsed.all("th") if head.get("scope") == "col")
    values = [cell["data-value"] for cell in parsed.all("td") if "data-value" in cell]
    assert "60.0" in values and all(float(value) == float(value) for value in values)
    runs = [a for a in parsed.all("details") if a.get("class") == "run"]
    assert sorted(run["data-run"] for run in runs) == ["0", "1", "2", "3"] and "seed 1" in parsed.text
    assert {"viewport", "color-scheme"} <= {a.get("name") for a in parsed.all("meta")}


def test_long_logs_are_cut(write_run, tmp_path):
    (write_run("a") / "log.txt").write_text("start\n" + "x" * 3 * MOST_OF_FILE + "\nthe end\n")
    text = page(load_report(tmp_path / "out"), [])
    ((_, _), (_, log)) = unpacked(text)[0]["files"]
    assert "the end" in log and "start\n" not in log and len(log) < 1.1 * MOST_OF_FILE
    assert f"the last {MOST_OF_FILE:,}" in log and len(text) < 3 * MOST_OF_FILE


def test_no_folder_of_the_user_is_shown(write_run, tmp_path):
    environment = {"promptvision": "0.1.0", "python": "3.11.7", "code": "/home/somebody/promptvision"}
    own = {"BACKBONE.PRETRAINED": "/home/somebody/weights/clip.pt", "OUTPUT_DIR.X": "C:\\Users\\somebody\\out"}
    folder = write_run("a", environment=environment, config=own)
    (folder / "log.txt").write_text("features in /home/somebody/.cache/features, 1/2 done, see https://a.b/c\n")
    (write_run("b") / "config.yaml").unlink()
    text = page(load_report(tmp_path / "out"), [])
    runs = json.dumps(unpacked(text))
    assert "somebody" not in runs + text and str(tmp_path) not in runs + text
    assert "…/clip.pt" in unpacked(text)[0]["files"][0][1] and "b/config.yaml cannot be read" in text
    assert "promptvision 0.1.0, Python 3.11.7" in text, "versions are named"


@pytest.mark.parametrize("text", ["a/b", "1/2", "https://a.b/c/d", "task: x / y", "and/or", "a photo of a {}/{}"])
def test_what_is_no_absolute_path_stays(text):
    assert without_folders(text) == text


def test_each_protocol_has_its_tables_and_figures_and_a_link(write_run, tmp_path):
    for seed in (1, 2):
        for shots in (1, 16):
            write_run(f"few{shots}{seed}", shots=shots, seed=seed)
        write_run(f"all{seed}", shots=0, seed=seed, family="vpt", method="linear")
    report = load_report(tmp_path / "out")
    text = page(report, draw_all(report, tmp_path / "figures", (".svg",)))
    links = re.findall(r'<a href="#(\w+)">', text)
    assert links[:2] == ["few_shot", "full"] and set(links) <= set(re.findall(r'id="(\w+)"', text))
    few_shot, full = (text.index(f'<section id="{name}"') for name in ("few_shot", "full"))
    assert few_shot < text.index("Few-shot: training") < full < text.index("All training images: training")
    assert "6 runs of 2 methods with 2 seeds in 2 protocols; backbone ViT-B-16." in text


def test_figures_say_in_words_what_they_show(made):
    figures = Parsed(made()).all("img")
    assert figures and all(int(figure["width"]) > 200 and len(figure["alt"]) > 60 for figure in figures)


@pytest.mark.fault("text")
def test_lone_surrogates_can_be_written(write_run, tmp_path):
    write_run("a", classes=["\ud800", "b"], options={"CTX_INIT": "\ud800"})
    write_run("b", options={"CTX_INIT": "y"})
    report = load_report(tmp_path / "out")
    write_page(report, draw_all(report, tmp_path / "figures"), tmp_path / "deep" / "report.html")
    assert "CoOp" in (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
