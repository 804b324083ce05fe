"""docs/quirks.md: every option that it names exists, takes the value it gives, and is not the default."""

import re
from pathlib import Path

import pytest
import yaml

import coop
import vpt
from promptvision.config.schema import KEYS

TEXT = (Path(__file__).parents[1] / "docs/quirks.md").read_text()
ROWS = [line.split("|")[1:4] for line in TEXT.splitlines() if line.startswith("|") and "---" not in line]
NAMED = [
    (key, value) for _, option, _ in ROWS for key, value in re.findall(r"`([A-Z_]+(?:\.[A-Z_0-9]+)+) ?([^`]*)`", option)
]
DEFAULTS = {key.name: key.initial for key in KEYS}


@pytest.mark.parametrize(("key", "value"), NAMED)
def test_the_named_option_exists_and_is_not_the_default(key, value):
    if key.startswith("METHOD.OPTIONS."):
        option = key.rpartition(".")[2]
        known = [family.options(name) for family in (vpt, coop) for name in family.METHODS]
        defaults = [options[option] for options in known if option in options]
    else:
        defaults = [DEFAULTS[key]]
    assert defaults
    assert not value or any(default != yaml.safe_load(value) for default in defaults)


def test_there_are_quirks():
    assert len(ROWS) > 20 and len(NAMED) > 10
