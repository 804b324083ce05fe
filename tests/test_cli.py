"""The command line that all tools share."""

import sys

import pytest

from promptvision.cli import tool_parser


@pytest.mark.parametrize("place", [0, 2, 4])
def test_options_stand_anywhere_among_overrides(monkeypatch, place):
    words = ["OPTIM.LR", "-1", "SEED", "2"]
    words[place:place] = ["--resume", "auto"]
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "--config", "c.yaml", *words])
    parser = tool_parser("", config="a file", overrides="keys")
    parser.add_argument("--resume", choices=("never", "auto"))
    args = parser.parse_args()
    assert (args.config, args.resume, args.overrides) == ("c.yaml", "auto", ["OPTIM.LR", "-1", "SEED", "2"])


def test_an_unknown_option_among_overrides_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "--config", "c.yaml", "SEED", "2", "--retry", "SEED", "1"])
    with pytest.raises(SystemExit):
        tool_parser("", config="a file", overrides="keys").parse_args()
    assert "unrecognized arguments: --retry" in capsys.readouterr().err


def test_sub_commands_are_parsed_as_before(tool):
    assert tool("data", "check")[0] == 2
    status, out, _ = tool("data", "show", "digits", "--root", "data")
    assert status == 0 and "digits" in out
