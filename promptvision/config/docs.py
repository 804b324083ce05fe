"""The schema in words: for the terminal, and as the page docs/config.md."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from textwrap import fill, shorten
from typing import Any

from promptvision.config.key import Key
from promptvision.config.schema import KEYS

OFTEN = ["SEED", "OUTPUT_DIR", "METHOD.NAME", "BACKBONE.NAME", "DATASET.NAME", "DATASET.ROOT", "DATASET.SHOTS"]
OFTEN += ["OPTIM.LR", "OPTIM.EPOCHS", "TRAIN.DEVICE"]


def often_set() -> str:
    """Return a line for each key that most commands set, for the end of a tool's `--help`."""
    keys = {key.name: key.help for key in KEYS if key.name in OFTEN} | {"METHOD.OPTIONS.*": "Options of the method."}
    lines = [f"  {name:<17} {shorten(meaning, 80, placeholder=' ...')}" for name, meaning in keys.items()]
    return "\n".join(["keys often set (all: promptvision help keys; a method's: promptvision help coop):", *lines])


def keys_help(begin: str = "") -> str:
    """Return the keys whose names begin so, each with its default and its sentence, for a terminal."""
    keys = [key for key in KEYS if key.name.startswith(begin)]
    lines = [f"{key.name} ({_default(key.default)}): {_sentence(key)}" for key in keys]
    return "\n".join(fill(line, 100, subsequent_indent="    ") for line in lines) + "\n"


def options_table(families: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{family: {method: {OPTION: default}}}."""
    return {
        name: {method: dict(family.options(method)) for method in family.METHODS} for name, family in families.items()
    }


def config_page(families: Mapping[str, Any]) -> str:
    """docs/config.md: every key by section, then every method's options."""
    lines = [
        "# Config keys",
        "",
        "Made from `promptvision/config/schema.py` and the methods' signatures by `python tools/docs.py`.",
        "",
    ]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key.name}` | {_code(key.default)} | {_sentence(key)} |" for key in KEYS]
    for name, methods in options_table(families).items():
        lines += ["", f"## METHOD.OPTIONS of the `{name}` family"]
        for method, options in methods.items():
            lines += ["", f"### `{method}`", "", _first_sentence(families[name].METHODS[method])]
            rows = [f"| `{option}` | {_code(default)} |" for option, default in options.items()]
            lines += ["", "| option | default |", "|---|---|", *rows] if rows else ["", "No options."]
    return "\n".join(lines) + "\n"


def _sentence(key: Key) -> str:
    told = all(choice in key.help for choice in key.choices)
    return key.help if told else f"{key.help} One of {', '.join(key.choices)}."


def _first_sentence(method: object) -> str:
    return " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())


def _default(value: Any) -> str:
    """As one would write it in YAML."""
    if isinstance(value, str):
        return f'"{value}"' if not value or " " in value else value
    return str(list(value) if isinstance(value, tuple) else value)


def _code(value: Any) -> str:
    return f"`{_default(value)}`".replace("|", "\\|")
