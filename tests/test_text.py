"""Names of classes, files, runs and settings are text at every exit: no markup, no escape sequences, no formulas."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from promptvision.cli import one_sentence
from promptvision.config import load_config, summary
from promptvision.config.families import FAMILIES
from promptvision.data.cards import load_card
from promptvision.data.readers import read
from promptvision.data.readers.paths import listed_path
from promptvision.engine import progress
from promptvision.engine.run_folder import RunFolder
from promptvision.errors import UNSEEN, InputError, visible
from promptvision.experiment.predict import Prediction
from promptvision.report.tables.table import Column, Entry, Table
from promptvision.report.tables.terminal import PlainConsole, TerminalTable, matrix_table, run_table, worst_classes
from promptvision.report.tables.writers import comma_separated, latex, markdown
from promptvision.sweep.progress import Board

ROOT = Path(__file__).parents[1]
NASTY = "[red]a[/b] :smile:\x1b[31m\x9b2J\u202egnp\ud800\x07\x00"
SEEN = "[red]a[/b] :smile:\\x1b[31m\\x9b2J\\u202egnp\\ud800\\x07\\x00"


def test_visible_text_stays_as_it_is():
    for name in ("café", "犬 の", "क्‍ष", "a\\b", "a\xa0b", "👩‍🔬"):
        assert visible(name) == name
    assert visible("a\nb\r\u2028c\ufeff") == "a\\nb\\r\\u2028c\\ufeff" and visible("a\nb", lines=True) == "a\nb"
    assert visible(NASTY) == visible(visible(NASTY)) == SEEN


def printed(*things, **options):
    file = io.StringIO()
    PlainConsole(file=file, width=300, **options).print(*things)
    return file.getvalue()


RESULT = {"accuracy": 1.0, "per_class_mean": None, "macro_f1": None, "ece": None, "split": NASTY, "n": 2}
RESULT |= {"learned_parameters": 3, "classes": [NASTY, "\nb"], "per_class": [0.0, 1.0], "matrix": [[1.0, 2.0]] * 2}
RESULT |= {"tasks": [{"name": NASTY}, {"name": "b"}], "continual": {"JOINT": False}}


@pytest.mark.parametrize("terminal", [False, True])
def test_tables_on_a_terminal(terminal):
    report = Table(NASTY, [Column(NASTY, number=False, head=True)], [[Entry(NASTY)]], about=NASTY, notes=[NASTY])
    things = run_table(RESULT, NASTY), worst_classes(RESULT), TerminalTable(report), NASTY, matrix_table(RESULT, NASTY)
    for thing in things:
        out = printed(thing, force_terminal=terminal)
        assert "[red]a[/b] :smile:\\x1b[31m" in out and not UNSEEN.search(re.sub(r"\x1b\[[\d;]*m|\n", "", out))
    assert SEEN in printed(worst_classes(RESULT)) and "\\nb" in printed(worst_classes(RESULT))


def test_the_board_of_a_sweep():
    class Job:
        name, title = NASTY, NASTY

    assert SEEN in printed(Board([Job()], [None]).table())


@pytest.fixture
def log():
    """Undo changes to the project's log."""
    known, level, up = list(progress.LOG.handlers), progress.LOG.level, progress.LOG.propagate
    yield progress.LOG
    progress.LOG.handlers[:], progress.LOG.level, progress.LOG.propagate = known, level, up


def test_lines_of_log(log, tmp_path, capsys):
    log.handlers.clear()
    progress.log_to_terminal()
    cfg = load_config("coop/embedded.yaml", ["DATASET.TEMPLATE", f"{NASTY} {{}}\nINFO forged"], FAMILIES)
    with RunFolder(tmp_path / "run") as folder:
        log.warning("class %r, file %s", NASTY, f"{NASTY}\n2026 INFO forged")
        log.info("%s", summary(cfg, FAMILIES), extra={"lines": True})
        with progress.Meter(NASTY, 3, "images") as meter:
            meter.update(1, pause=-1.0)
    for text in (capsys.readouterr().err, folder.log.read_text(encoding="utf-8")):
        lines = text.splitlines()
        assert sum(SEEN in line for line in lines) == 3 and not any(UNSEEN.search(line) for line in lines)
        assert f"{SEEN}\\n2026 INFO forged" in lines[0] and "SEED: 1" in lines[1] and f"{SEEN}: 1 of 3" in lines[-1]


def test_bars_and_log_on_a_terminal(log, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    log.handlers.clear()
    progress.log_to_terminal()
    log.warning("class %s", NASTY)
    with progress.Meter(NASTY, 3, "images", stays=True) as meter:
        meter.update(3)
    out = capsys.readouterr().err
    assert out.count("a[/b] :smile:\\x1b[31m") >= 2 and "\x1b[31mgnp" not in out and "\x9b" not in out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_predictions(flags, encoding, monkeypatch):
    tool = runpy.run_path(str(ROOT / "tools/predict.py"))
    monkeypatch.setattr(sys, "argv", ["predict.py", "--run", "out", "a.png", *flags])
    found = [Prediction("é犬", [(f"é{NASTY}", 1.0)]), Prediction("torn.png", [], NASTY)]
    known = tool["main"].__globals__
    known.update(load_config=lambda *a, **k: None, classify=lambda cfg, args, _: known["printed"]([found], args.json))
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding, write_through=True))
    with pytest.raises(SystemExit), one_sentence():
        tool["main"]()
    out = raw.getvalue().decode(encoding)
    assert not UNSEEN.search(out.replace("\n", "")) and f"error: {SEEN}" in out
    row = {"picture": "é犬", "top": [{"class": f"é{NASTY}", "probability": 1.0}]}
    assert not flags or json.loads(out.splitlines()[0]) == row


def test_the_sentence_of_an_error(capsys):
    with pytest.raises(SystemExit), one_sentence():
        raise InputError(f"no class {NASTY}\nerror: forged")
    assert capsys.readouterr().err == f"error: no class {SEEN}\\nerror: forged\n"


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_tools_print_in_any_encoding(locale, tmp_path):
    facts = dict.fromkeys(("source", "licence", "where"), "x") | {"title": f"é犬{NASTY[:-1]}", "reader": "folder"}
    card = tmp_path / os.fsdecode(b"[b]caf\xe9[red].yaml")
    card.write_text(json.dumps({**facts, "template": "a {}", "traps": ["one\ntwo", NASTY[:-1]]}), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools/data.py"), "show", str(card)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **locale})
    out = done.stdout.decode()
    assert done.returncode == 0 and not done.stderr
    assert not UNSEEN.search(out.replace("\n", "")) and "[b]caf\\udce9[red]" in out and "\\x1b[31m" in out


FORMULAS = ("=1+1", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1+1", "\n=1", "=cmd|' /C calc'!A0")


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_table_as_text(formula):
    columns = [Column(formula, number=False, head=True), Column(NASTY, number=False)]
    table = Table(formula, columns, [[Entry(formula), Entry(f"{NASTY}|<b>\\input{{x}}")], [Entry("* a"), Entry("[b")]])
    cells = comma_separated([table]).replace('"', "").split("\n")
    assert cells[0].split(",")[1].startswith("'") and all(each.startswith("'") for each in cells[1].split(",")[:2])
    for text in (comma_separated([table]), markdown(table), latex(table)):
        assert not UNSEEN.search(text.replace("\n", ""))
    assert "\\|\\<b\\>" in markdown(table) and "\\textbackslash{}input\\{x\\}" in latex(table)
    assert "\n{}* a & {}[b \\\\" in latex(table)


def test_class_names_and_paths_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match=r"line 1: the path '.ud800.png' is not text in UTF-8"):
        listed_path("\ud800.png", tmp_path, "line 1")
    assert listed_path("caf\udce9.png", tmp_path, "line 1") == "caf\udce9.png"
    rows = {split: [["a.png", 0, "\ud800"]] for split in ("train", "val", "test")}
    facts = {"title": "x", "source": "x", "licence": "x", "where": "x", "template": "a {}", "folders": ["."]}
    (tmp_path / "card.yaml").write_text(json.dumps({**facts, "reader": "coop_split", "images": ".", "split": "s.json"}))
    (tmp_path / "s.json").write_text(json.dumps(rows))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"class name '.ud800' is not text in UTF-8"):
        read(load_card(str(tmp_path / "card.yaml")), str(tmp_path))
