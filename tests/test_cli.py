"""The command line that all tools share."""

import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from promptvision.cli import gpu_count, tool_parser
from promptvision.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_options_stand_anywhere_among_overrides(monkeypatch, place):
    words = ["OPTIM.LR", "-1", "SEED", "2"]
    words[place:place] = ["--resume", "auto"]
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "--config", "c.yaml", *words])
    parser = tool_parser("", config="a file", overrides="keys")
    parser.add_argument("--resume", choices=("never", "auto"))
    args = parser.parse_args()
    assert (args.config, args.resume, args.overrides) == ("c.yaml", "auto", ["OPTIM.LR", "-1", "SEED", "2"])


def test_an_unknown_option_among_overrides_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "--config", "c.yaml", "SEED", "2", "--retry", "SEED", "1"])
    with pytest.raises(InputError, match="^unrecognized arguments: --retry.*; see --help$"):
        tool_parser("", config="a file", overrides="keys").parse_args()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["demo", "--jobs", "0"], "argument --jobs: '0' is no whole number from 1 on"),
        (["sweep", "--config", "c.yaml", "--output", "o", "--stack", "x"], "--stack: 'x' is no whole number from 1 on"),
        (["sweep", "--config", "c.yaml", "--output", "o", "--gpus", "1"], "--gpus is for a cluster: name it by --ray"),
        (["train"], "the following arguments are required: --config; see --help"),
        (["train", "--confg", "c.yaml"], "unknown option --confg; did you mean --config?"),
        (["train", "--config", "c.yaml", "--overwite"], "unknown option --overwite; did you mean --overwrite?"),
        (["data", "shw"], "invalid choice: 'shw'"),
        (["report", "--run", "out", "--figures", "o"], "--run writes the page of one run: leave out --figures"),
        (["help", "optim.lr"], "unknown topic 'optim.lr'; did you mean 'OPTIM.LR'?"),
    ],
)
def test_a_wrong_option_is_one_sentence(words, sentence, tool):
    status, out, err = tool(*words)
    assert status == 2 and out == "" and err.startswith("error: ") and sentence in err


def test_gpus_are_a_whole_number_or_a_share():
    assert list(map(gpu_count, ("0", "0.25", ".5", "1", "2.0"))) == [0, 0.25, 0.5, 1, 2]
    for word in ("-1", "1.5", "nan", "inf", "two", ""):
        with pytest.raises(ArgumentTypeError, match="neither a whole number nor the share of one GPU"):
            gpu_count(word)


def test_sub_commands_are_parsed_as_before(tool):
    assert tool("data", "check")[0] == 2
    status, out, _ = tool("data", "show", "digits", "--root", "data")
    assert status == 0 and "digits" in out


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [("| true", 141, ""), ("> /dev/full", 2, "error: the output cannot be written: No space left on device\n")],
)
@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)"])
def test_an_output_that_cannot_be_written_ends_without_a_traceback(target, status, sentence, end):
    code = f"import sys\nfrom promptvision.cli import one_sentence\nwith one_sentence():\n print('x' * 99999)\n {end}"
    command = ["bash", "-c", f'"$0" -c "$1" {target}; exit ${{PIPESTATUS[0]}}', sys.executable, code]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (status, sentence)


START = """
import contextlib, io, runpy, sys
for words in WORDS:
    sys.argv[:] = ["promptvision", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_module("promptvision", run_name="__main__")
    slow = [name for name in ("torch", "timm", "open_clip", "pandas") if name in sys.modules]
    print(*words, *slow) if slow else None
"""


def test_help_and_a_mistake_in_a_config_need_no_slow_import():
    """Only the two tools for the project's own development, bench and pretrain, import torch at once."""
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"bench", "pretrain"}
    words = [["--help"], *([tool, "--help"] for tool in sorted(tools))]
    words.append(["train", "--config", str(ROOT / "configs/base.yaml"), "METHOD.NAM", "coop"])
    code = START.replace("WORDS", repr(words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "" and "did you mean METHOD.NAME?" in done.stderr and "Traceback" not in done.stderr
