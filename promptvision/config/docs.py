"""Keys, methods and their options in words: for the terminal, and as the page docs/config.md."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill, shorten
from typing import Any

from promptvision.config.key import Key
from promptvision.config.methods import MethodTable
from promptvision.config.schema import KEYS

OFTEN = ["SEED", "OUTPUT_DIR", "METHOD.NAME", "BACKBONE.NAME", "DATASET.NAME", "DATASET.ROOT", "DATASET.SHOTS"]
OFTEN += ["OPTIM.LR", "OPTIM.EPOCHS", "TRAIN.DEVICE"]
WIDTH = 100
"""Columns of a text for the terminal."""


def often_set() -> str:
    """Return a line for each key that most commands set, for the end of a tool's `--help`."""
    keys = {key.name: key.help for key in KEYS if key.name in OFTEN} | {"METHOD.OPTIONS.*": "Options of the method."}
    lines = [f"  {name:<17} {shorten(meaning, 80, placeholder=' ...')}" for name, meaning in keys.items()]
    return "\n".join(["keys often set (all: promptvision help keys; a method's: promptvision help coop):", *lines])


def keys_help(begin: str = "") -> str:
    """Return the keys whose names begin so, each with its default and its meaning."""
    keys = [key for key in KEYS if key.name.startswith(begin)]
    return "".join(_paragraph(f"{key.name} ({_default(key.default)}): {_meaning(key)}") for key in keys)


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
    options = [
        _paragraph(f"  {option} ({_default(default)}): {docs.meanings.get(option, '')}")
        for option, default in docs.defaults.items()
    ]
    title = f"METHOD.FAMILY {methods.family} METHOD.NAME {name}\n{docs.paper}\n\n{docs.text}\n\n"
    return title + ("METHOD.OPTIONS, each with its default:\n" + "".join(options) if options else "No options.\n")


def config_page(families: Mapping[str, Any]) -> str:
    """Return docs/config.md: every key by section, then every method's options."""
    lines = [
        "# Config keys",
        "",
        "Generated from `promptvision/config/schema.py` and the methods' docstrings by `python tools/docs.py`.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{key.name}` | {_code(key.default)} | {_meaning(key)} |" for key in KEYS]
    for name, family in families.items():
        lines += ["", f"## METHOD.OPTIONS of the `{name}` family"]
        for method in family.METHODS:
            docs = family.METHODS.docs(method)
            meanings = {option: docs.meanings.get(option, "").replace("|", "\\|") for option in docs.defaults}
            rows = [f"| `{option}` | {_code(docs.defaults[option])} | {text} |" for option, text in meanings.items()]
            lines += ["", f"### `{method}`", "", docs.summary, ""]
            lines += ["| option | default | meaning |", "|---|---|---|", *rows] if rows else ["No options."]
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    return fill(text, WIDTH, subsequent_indent="    ") + "\n"


def _meaning(key: Key) -> str:
    complete = all(choice in key.help for choice in key.choices)
    return key.help if complete else f"{key.help} One of {', '.join(key.choices)}."


def _default(value: Any) -> str:
    """Return a default as YAML has it."""
    if isinstance(value, str):
        return f'"{value}"' if not value or " " in value else value
    return str(list(value) if isinstance(value, tuple) else value)


def _code(value: Any) -> str:
    return f"`{_default(value)}`".replace("|", "\\|")
