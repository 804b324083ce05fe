"""Overrides that hold where other keys have certain values: the SET of a config or a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptvision.errors import InputError


def is_setting(found: Any) -> bool:
    """Return whether the contents of a file are KEY: value pairs."""
    return isinstance(found, dict) and all(isinstance(key, str) for key in found)


def checked_table(what: str, found: Any) -> list[dict[str, Any]]:
    """Return the contents of a SET, a list of {KEY: value ..., WHEN: {KEY: value or list of values ...}}."""
    if not isinstance(found, list) or not all(is_setting(row) and is_setting(row.get("WHEN", {})) for row in found):
        raise InputError(f"{what}: SET is a list of {{KEY: value, ..., WHEN: {{KEY: value, ...}}}}")
    return found


def holds(row: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Return whether the keys in WHEN have one of the values that it gives; they do without WHEN."""
    wanted = {key: each if isinstance(each, list) else [each] for key, each in row.get("WHEN", {}).items()}
    return all(key in known and known[key] in each for key, each in wanted.items())


def overrides_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row without its WHEN."""
    return {key: value for key, value in row.items() if key != "WHEN"}
