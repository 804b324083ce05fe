"""YAML as plain values: no file can run code, and none can grow in memory far beyond its size."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from promptvision.atomic import DIGITS, read_bytes
from promptvision.errors import InputError

LARGEST = 1 << 20
"""Bytes of a file; the largest that ships with the project has a twentieth of it."""
SMALL = 1 << 16
"""Bytes of a file whose values are kept, so that the same file is parsed once."""
VALUES = 1_000_000
"""Values in a file, each counted as often as aliases repeat it: of aliases of aliases of aliases there is no end."""
WRONG = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError, ArithmeticError)
"""Errors that PyYAML raises for text that is not YAML, or has a tag that does not fit its value (`!!int x`)."""


class PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` for plain values only, with a limit on aliases and without repeated keys."""

    def get_single_node(self) -> Any:
        """Return the file's only document, before values are made of it."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {VALUES:,} values", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return a mapping; refuse a key that occurs twice, of which PyYAML would drop the first value."""
        node, seen = super().compose_mapping_node(anchor), dict[str, int]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value[:60]!r} is there twice, first on line {seen[key.value]}; keep one"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Return the text of a plain value; refuse a NUL, which no path and no name has."""
        text = super().construct_scalar(node)
        if "\0" in str(text):
            raise yaml.constructor.ConstructorError(None, None, "a NUL character", node.start_mark)
        return text

    def construct_whole_number(self, node: Any) -> int:
        """Return a whole number; refuse one beyond every float, which base 60 can write in few characters."""
        number = self.construct_yaml_int(node)
        if abs(number) >= 10**DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"more than {DIGITS} digits", node.start_mark)
        return number


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_whole_number)


def _size(node: Any, known: dict[int, int]) -> int:
    """Count the values in a node and in those that it holds."""
    if id(node) not in known:
        known[id(node)] = VALUES + 1  # of a node that holds itself there is no end either
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def parse(text: str) -> Any:
    """Return the plain values in a YAML text; raise one of WRONG."""
    return yaml.load(text, PlainLoader)


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return KEY: value lines, in the order of the keys; those of equal values are made once."""
    return "".join(_lines(pickle.dumps({key: value})) for key, value in values.items())


@lru_cache(maxsize=4096)
def _lines(pair: bytes) -> str:
    return yaml.safe_dump(pickle.loads(pair), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, what: str, largest: int = LARGEST) -> Any:
    """Return the plain values in a YAML file, which errors call `what`."""
    content = read_bytes(path, what, largest)
    try:
        return pickle.loads(_parsed(content)) if len(content) <= SMALL else parse(content.decode("utf-8"))
    except WRONG as error:
        raise InputError(f"{what} {path} is not plain YAML: {_cause(error)}") from error


@lru_cache(maxsize=1024)
def _parsed(content: bytes) -> bytes:
    """Return the plain values in the bytes of a file, pickled, of which every caller makes its own."""
    return pickle.dumps(parse(content.decode("utf-8")))


def _cause(error: Exception) -> str:
    """Return the problem that a parser found and its place, on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem
