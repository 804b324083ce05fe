"""The page of a report: nothing from a run folder is more than text, nothing is loaded, and every run is there."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from promptvision.report.figures import draw_all
from promptvision.report.page import FILES, MOST_OF_FILE, page, write_page
from promptvision.report.report import load_report

SCRIPT = "<script>alert(1)</script>"
NASTY = f"\"quoted\" 'a' {SCRIPT} </script> <img src=x onerror=alert(1)> &lt; $x$ {{{{ 7 * 7 }}}} --> ]]>"


class Parsed(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

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


@pytest.fixture
def made(write_run, tmp_path):
    """The page of a few runs whose every name is an attack."""

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
    return Parsed(made(dataset=NASTY, backbone=NASTY, method=NASTY))


def test_nothing_from_a_run_is_more_than_text(parsed):
    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    assert all(attributes["src"].startswith("data:image/svg+xml;base64,") for attributes in parsed.all("img"))
    assert not [(tag, a) for tag, a in parsed.tags if any(name.startswith("on") or name == "style" for name in a)]
    assert not {"iframe", "object", "link", "base"} & {tag for tag, _ in parsed.tags}
    assert len(parsed.all("b")) == 4, "one in the line of each run"
    assert NASTY in parsed.text
    assert parsed.text.count(SCRIPT) > 4, "the classes, templates, names and the log are shown as they are"


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
    assert len(runs) == 4 and parsed.all("pre") and "METHOD:" in parsed.text and "seed" in parsed.text
    assert {"viewport", "color-scheme"} <= {a.get("name") for a in parsed.all("meta")}


def test_long_logs_are_cut(write_run, tmp_path):
    (write_run("a") / "log.txt").write_text("start\n" + "x" * 3 * MOST_OF_FILE + "\nthe end\n")
    text = page(load_report(tmp_path / "out"), [])
    assert "the end" in text and "start\n" not in text and len(text) < 3 * MOST_OF_FILE
    assert f"the last {MOST_OF_FILE:,}" in text


def test_lone_surrogates_can_be_written(write_run, tmp_path):
    write_run("a", classes=["\ud800", "b"], options={"CTX_INIT": "\ud800"})
    write_run("b", options={"CTX_INIT": "y"})
    report = load_report(tmp_path / "out")
    write_page(report, draw_all(report, tmp_path / "figures"), tmp_path / "deep" / "report.html")
    assert "CoOp" in (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
