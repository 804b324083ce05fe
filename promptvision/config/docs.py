"""Keys, methods and their options in words: for the terminal, and as the page docs/config.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from textwrap import fill, shorten
from typing import Any

from promptvision.config.methods import MethodTable
from promptvision.config.schema import KEYS

OFTEN = ["SEED", "OUTPUT_DIR", "METHOD.NAME", "BACKBONE.NAME", "DATASET.NAME", "DATASET.ROOT", "DATASET.SHOTS"]
OFTEN += ["OPTIM.LR", "OPTIM.EPOCHS", "TRAIN.DEVICE"]
FILES = """\
A config is a YAML file with lines `SECTION: {KEY: value}`. `KEY VALUE` words on the command line override it.

- `_BASE_: other.yaml` builds on another file.
- `SET` is a list of settings that apply only where other keys have certain values, such as
  `SET: [{OPTIM.EPOCHS: 100, WHEN: {DATASET.NAME: [dtd, eurosat], DATASET.SHOTS: 4}}]`. The command line wins over it.
  `WHEN` can test an option of the method, such as `METHOD.OPTIONS.HOST`, if a file or the command line sets it.

`promptvision help OPTIM` prints the keys of a section, `promptvision help coop` the paper, the formulas and the options
of a method."""
SECTIONS = {
    "": "The run",
    "LOG": "`LOG`: services that receive the curves",
    "METHOD": "`METHOD`: the method",
    "BACKBONE": "`BACKBONE`: the network",
    "DATASET": "`DATASET`: images and protocol",
    "INPUT": "`INPUT`: image files and transforms",
    "OPTIM": "`OPTIM`: optimiser and schedule",
    "TRAIN": "`TRAIN`: the training loop",
    "COMPUTE": "`COMPUTE`: computation, without effect on results",
    "TEST": "`TEST`: evaluation",
    "CONTINUAL": "`CONTINUAL`: streams of tasks",
}
"""Sections of the config with their headings, in the order of the keys."""
WIDTH = 100
"""Columns of a text for the terminal."""


def often_set(refused: Sequence[str] = ()) -> str:
    """Return a line for each key that most commands set, for the end of a tool's `--help`; none for those `refused`."""
    keys = {key.name: key.help for key in KEYS if key.name in OFTEN and key.name not in refused}
    keys |= {"METHOD.OPTIONS.*": "Options of the method."}
    lines = [f"  {name:<17} {shorten(meaning, 80, placeholder=' ...')}" for name, meaning in keys.items()]
    return "\n".join(["keys often set (all: promptvision help keys; a method's: promptvision help coop):", *lines])


def keys_help(begin: str = "") -> str:
    """Return the keys whose names begin so, each with its default and its meaning."""
    keys = [key for key in KEYS if key.name.startswith(begin)]
    lines = [f"{key.name} ({_default(key.default)}): {key.meaning}" for key in keys]
    return "".join(fill(line, WIDTH, subsequent_indent="    ") + "\n" for line in lines)


def methods_help(families: Mapping[str, Any]) -> str:
    """Return a line for each method of each family."""
    lines = []
    for name, family in families.items():
        lines.append(f"METHOD.FAMILY {name}: {family.__doc__.partition(':')[0]}")
        texts = {method: family.METHODS.docs(method).summary for method in family.METHODS}
        lines += [f"  {method:<16} {shorten(text, WIDTH, placeholder=' ...')}" for method, text in texts.items()]
    return "\n".join([*lines, ""])


def method_help(methods: MethodTable, name: str) -> str:
    """Return what there is to say of a method: its paper, its docstring, and its options with defaults and meanings."""
    docs = methods.docs(name)
    lines = [f"METHOD.FAMILY {methods.family} METHOD.NAME {name}", docs.paper, "", docs.text, ""]
    lines.append("METHOD.OPTIONS, each with its default:" if docs.defaults else "No options.")
    for option, default in docs.defaults.items():
        text = f"  {option} ({_default(default)}): {docs.meanings.get(option, '')}"
        lines.append(fill(text, WIDTH, subsequent_indent="    "))
    return "\n".join([*lines, ""])


def config_page(families: Mapping[str, Any]) -> str:
    """Return docs/config.md: every key by section, then the options of every method."""
    source = "Generated from `promptvision/config/schema.py` and the methods' docstrings by `python tools/docs.py`."
    lines = ["# Config keys", "", source, "", FILES]
    for section, keys in groupby(KEYS, lambda key: key.name.rpartition(".")[0]):
        lines += ["", f"## {SECTIONS[section]}", ""]
        lines += _table("key", [(key.name, key.default, key.meaning) for key in keys])
    for name, family in families.items():
        lines += ["", f"## METHOD.OPTIONS of the `{name}` family"]
        for method in family.METHODS:
            docs = family.METHODS.docs(method)
            rows = [(option, default, docs.meanings.get(option, "")) for option, default in docs.defaults.items()]
            lines += ["", f"### `{method}`", "", docs.summary, ""]
            lines += _table("option", rows) if rows else ["No options."]
    return "\n".join(lines) + "\n"


def _table(title: str, rows: Sequence[tuple[str, Any, str]]) -> list[str]:
    """Return the lines of a Markdown table of names, defaults and meanings."""
    lines = [f"| {title} | default | meaning |", "|---|---|---|"]
    for name, default, meaning in rows:
        value, text = (each.replace("|", "\\|") for each in (_default(default), meaning))
        lines.append(f"| `{name}` | `{value}` | {text} |")
    return lines


def _default(value: Any) -> str:
    """Return a default as it is written in YAML."""
    if isinstance(value, str):
        return f'"{value}"' if not value or " " in value else value
    return str(list(value) if isinstance(value, tuple) else value)
