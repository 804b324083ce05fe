"""The table of docs/backbones.md is the one that its command makes."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/backbones.md").read_text(encoding="utf-8")
COMMAND = re.search(r"<!-- promptvision (backbone --markdown --name .*) -->", PAGE).group(1)
TABLE = PAGE.split("-->")[1].partition("<!--")[0]
NAMES = COMMAND.split()[3:]


def tables(text):
    """{family: ({backbone: its facts}, {(method, backbone): "yes" or the reason})}, times left out."""
    found = {}
    for family, part in zip(*[iter(re.split(r"^`(\w+)`:$", text, flags=re.M)[1:])] * 2, strict=True):
        first, second = (
            [re.split(r" *\| *", line.strip("| ")) for line in lines.splitlines() if not line.startswith("|---")]
            for lines in re.findall(r"(?:^\|.*\n)+", part, re.M)
        )
        listed = re.findall(r"^(\d+)\. (.*(?:\n {4}.*)*)$", part, re.M)
        reasons = {number: " ".join(reason.split()) for number, reason in listed}
        facts = {
            row[0].strip("`"): {key: cell for key, cell in zip(first[0][1:-2], row[1:-2], strict=True) if cell}
            for row in first[1:]
        }
        methods = {
            (row[0].strip("`"), name.strip("`")): reasons.get(cell, cell)
            for row in second[1:]
            for name, cell in zip(second[0][1:], row[1:], strict=True)
        }
        found[family] = facts, methods
    return found


def agrees(out, names, methods):
    """Compare the page with what the command printed of these backbones and methods (none: all)."""
    page, made = tables(TABLE), tables(out)
    for family, (facts, cells) in made.items():
        for name in facts:
            assert page[family][0][name] == facts[name]
        kept = {(m, n): cell for (m, n), cell in page[family][1].items() if n in facts and m in (methods or [m])}
        assert kept == cells
    assert {name for facts, _ in made.values() for name in facts} == set(names)


def check(tool, names, methods):
    status, out, err = tool(*COMMAND.split()[:2], "--name", *names, "--method", *methods)
    assert status == 0, err
    agrees(out, names, methods)


def test_the_rows_of_the_two_smallest_backbones(tool):
    check(tool, ["embedded", "mobilenetv3_small_050"], ["ln", "lora", "prompt", "swin_prompt", "zero_shot"])


@pytest.mark.slow
def test_the_rows_of_all_backbones(tool):
    check(tool, NAMES, ["swin_prompt", "vqt"])
