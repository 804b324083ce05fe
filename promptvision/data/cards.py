"""Finds, reads and checks data cards: one YAML file per dataset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from promptvision.data.card import ACCEPTED, PROTOCOLS, Card
from promptvision.data.readers import READERS
from promptvision.data.readers.layout import read_text
from promptvision.errors import InputError, counted, unknown
from promptvision.safe_yaml import read_yaml


def card_folder() -> Path:
    """Return the folder of the cards: in an installed wheel, else in the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "datacards"
    return installed if installed.is_dir() else package.parent / "datasets"


def card_names() -> list[str]:
    """Return the names of all cards, sorted."""
    return sorted(path.stem for path in card_folder().glob("*.yaml"))


def load_card(name: str) -> Card:
    """Return the card called `name`, or that of your own `.yaml` file; InputError if it is missing or wrong."""
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in card_names():
        raise unknown("dataset", name, card_names())
    path = Path(name) if own else card_folder() / f"{name}.yaml"
    facts = read_yaml(path, "card")
    if not isinstance(facts, dict):
        raise InputError(f"card {path} must hold keys and values")
    if isinstance(facts.get("names"), str):
        facts["names"] = read_text(path.parent / facts["names"], f"card {path}: names").splitlines()
    reader = facts.get("reader")
    if not isinstance(reader, str) or reader not in READERS:
        raise InputError(f"card {path}: {unknown('reader', reader, READERS)}")
    takes = {
        key: parameter.default is parameter.empty
        for key, parameter in inspect.signature(READERS[reader]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    _check(path, facts, takes, get_type_hints(READERS[reader]))
    options = {key: facts.pop(key) for key in takes if key in facts}
    return Card(name=path.stem, options=options, **facts)


def _check(path: Path, facts: Mapping[Any, Any], takes: Mapping[str, bool], hints: Mapping[str, Any]) -> None:
    """Check that every key is known and of the right type, and that none is missing.

    `takes`: keys of the reader -> whether it needs them; `hints`: their types.
    """
    own = {f.name for f in fields(Card)} - {"name", "options"}
    needed = {"title", "source", "licence", "where", "reader", "template"}
    hints = {**hints, **{key: hint for key, hint in get_type_hints(Card).items() if key in own}}
    _check_keys(path, "", facts, {key: hints[key] for key in own | set(takes)})
    domains = facts.get("domains", {})
    for name, keys in domains.items():
        _check_keys(path, f"domain {name!r}: ", keys, {key: hints[key] for key in {"counts", *takes}})
    for key in sorted(needed | {key for key, required in takes.items() if required}):
        if key not in facts and not (domains and all(key in keys for keys in domains.values())):
            raise InputError(f"card {path} lacks the key {key!r}")
    for entry in facts.get("download", []):
        if not {"url", "file"} <= entry.keys() or not isinstance(entry.get("size", 0), int):
            raise InputError(f"card {path}: download needs url and file, and a whole number as size")
    if facts.get("hub") and "repo" not in facts["hub"]:
        raise InputError(f"card {path}: hub needs repo")
    names, classes = facts.get("names"), facts.get("classes")
    if names and classes and len(names) != classes:
        raise InputError(f"card {path}: names holds {counted(len(names), 'name')}, classes says {classes}")
    for template in [facts["template"], *facts.get("templates", [])]:
        if "{}" not in template:
            raise InputError(f"card {path}: template {template!r} has no {{}} for the class name")
    for key, kind, known in (("protocols", "protocol", PROTOCOLS), ("accepts", "accepted fault", ACCEPTED)):
        if wrong := [each for each in facts.get(key, []) if each not in known]:
            raise InputError(f"card {path}: {unknown(kind, wrong[0], known)}")


def _check_keys(path: Path, where: str, facts: Mapping[Any, Any], hints: Mapping[str, Any]) -> None:
    """Raise InputError for a key that is unknown or whose value has another type."""
    for key, value in facts.items():
        if key not in hints:
            raise InputError(f"card {path}: {where}{unknown('key', key, hints)}")
        hint = hints[key]
        if not _fits(value, hint):
            kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else hint
            raise InputError(f"card {path}: {where}{key} must be {kind}, not {value!r}")


def _fits(value: object, hint: Any) -> bool:
    """Return whether a YAML value has a type such as `str`, `int | None`, `list[str]` or `dict[str, int]`."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0]) and _fits(each, inner[1]) for key, each in value.items()
        )
    if inner:
        return any(_fits(value, each) for each in inner)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
