"""YAML files as plain values: no file can run code, and none can grow in memory far beyond its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from promptvision.errors import InputError

LARGEST = 1 << 20
"""Maximum size of a file in bytes; the largest that ships with the project has a twentieth of it."""
VALUES = 1_000_000
"""Maximum number of values in a file, each counted as often as aliases repeat it: nested aliases grow exponentially."""
WRONG = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError, ArithmeticError)
"""Errors that PyYAML raises for text that is not YAML, or for a tag that does not fit its value (`!!int x`)."""


class PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader`, which makes only plain values, with a limit on what aliases repeat."""

    def get_single_node(self) -> Any:
        """Return the root node of the only document, before values are made of it."""
        node = super().get_single_node()
        if node is not None and _count(node, {}) > VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {VALUES:,} values", node.start_mark)
        return node


def _count(node: Any, known: dict[int, int]) -> int:
    """Return the number of values in a node and below it; a node inside itself counts as 0."""
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def parse(text: str) -> Any:
    """Return the plain values of a YAML text; raise one of WRONG."""
    return yaml.load(text, PlainLoader)


def read_yaml(path: Path, what: str) -> Any:
    """Return the plain values of a YAML file, which error messages call `what`."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LARGEST:
        raise InputError(f"{what} {path} is too large: at most {LARGEST >> 20} MB")
    try:
        return parse(content.decode("utf-8"))
    except WRONG as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InputError(f"{what} {path} is not plain YAML: {problem}{where}") from error
