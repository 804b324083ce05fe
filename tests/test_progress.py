"""The progress of long work: plain lines without a terminal, a bar with one."""

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from promptvision.engine import progress
from promptvision.engine.progress import Meter, log_to_terminal, track

ROOT = Path(__file__).parents[1]
QUICK = ["DATASET.NAME", "digits", "DATASET.SHOTS", "1", "CACHE_DIR", ""]
EAGER = "import runpy, sys; from promptvision.engine import progress; progress.SOON = progress.EVERY = 0.0; "
EAGER += "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""A tool whose lines are due at once."""


def without_terminal(*words):
    """Run a command with pipes and return (stdout, stderr), which hold plain lines only."""
    env = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    return done.stdout, done.stderr


@pytest.mark.slow
def test_tools_without_a_terminal_print_plain_lines(tmp_path):
    long = tmp_path / ("a folder whose name is much longer than the eighty columns of a terminal " * 2).strip()
    words = ["--config", "configs/coop/embedded.yaml", "OUTPUT_DIR", long, "OPTIM.EPOCHS", 3, *QUICK]
    _, err = without_terminal("tools/train.py", *words)
    lines = [line for line in err.splitlines() if "Epoch" in line]
    assert [line.partition("Epoch ")[2][:3] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("loss" in line and "learning rate" in line and line.endswith("left") for line in lines)
    assert ": 2 of 3 steps, 0:00:0" in lines[1] and f"OUTPUT_DIR: {long}\n" in err
    assert lines[-1] in (long / "log.txt").read_text()
    _, err = without_terminal("-c", EAGER, "tools/eval.py", "--run", long, "CACHE_DIR", tmp_path / "cache")
    assert "image features, test images: 1 of " in err and "testing on test: 1 of " in err
    image = tmp_path / "one.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(image)
    out, err = without_terminal("-c", EAGER, "tools/predict.py", "--run", long, image)
    assert "predicting: 1 of 1 image, 0:00:00 left" in err and str(image) in out


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_after_ten_seconds_then_every_minute_and_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    for number in track(range(100), "testing", "batch"):
        clock[0] += 4.0
        seen.append(number)
    said = caplog.messages
    assert seen == list(range(100))
    assert said[0] == "testing: 3 of 100 batches, 0:06:28 left" and said[1].startswith("testing: 18 of")
    assert said[-1] == "testing: 100 of 100 batches, 0:00:00 left" and len(said) == 8
    caplog.clear()
    assert list(track(iter("ab"), "testing", "batch", 2)) == ["a", "b"] and not caplog.messages, "short work"
    for _ in track(range(100), "testing", "batch", shown=False):
        clock[0] += 4.0
    assert not caplog.messages


def test_lines_about_work_of_unknown_or_resumed_size(clock, caplog):
    caplog.set_level(logging.INFO)
    with Meter("downloading", None, "byte") as meter:
        clock[0] += 10
        meter.update(5_000_000)
        meter.expect(40_000_000, 20_000_000)
        clock[0] += 60
        meter.update(30_000_000)
    assert caplog.messages == ["downloading: 5 MB", "downloading: 30 of 40 MB, 0:01:00 left"]
    caplog.clear()
    with Meter("predicting", 3, "part") as meter:
        clock[0] += 10
        meter.update(0)
    assert caplog.messages == ["predicting: 0 of 3 parts"], "nothing is known of the time yet"


def test_the_log_without_a_terminal_is_one_plain_line_per_message(monkeypatch, capsys):
    log = logging.getLogger("promptvision")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    log_to_terminal()
    log_to_terminal()
    log.info("word " * 40)
    err = capsys.readouterr().err
    assert err.endswith(" INFO " + "word " * 40 + "\n") and err.count("\n") == 1


def test_a_terminal_shows_a_bar_and_no_lines():
    code = "from promptvision.engine import progress\nprogress.SOON = 0.0\nprogress.log_to_terminal()\n"
    code += "with progress.Meter('training', 2, 'step'):\n"
    code += "  for _ in progress.track(range(3), 'validating', 'batch'): pass"
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        while piece := read(ours):
            text += piece
    os.close(ours)
    assert (
        process.returncode == 0
        and b"\x1b[" in text
        and b"\xe2\x94\x81" in text
        and b"INFO" not in text
        and b"Traceback" not in text
    ), text


def test_what_is_printed_beside_a_bar_goes_to_its_file():
    code = "from promptvision.engine import progress\nwith progress.Meter('predicting', 2, 'image'):\n  print('a row')"
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    assert done.stdout == b"a row\n" and b"a row" not in read(ours)
    os.close(ours)


def read(terminal):
    """Return the next bytes of a terminal, none at its end."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
