"""YAML as plain values: no file can run code, and none can grow in memory far beyond its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from promptvision.errors import InputError

LARGEST = 1 << 20
"""Bytes of a file; the largest that ships with the project has a twentieth of it."""
ALIASES = 1000
MERGED = 10_000
"""Entries of one mapping that `<<` has added to: of an alias of aliases of aliases there is no end."""
WRONG = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError, ArithmeticError)
"""What PyYAML raises for text that is no YAML, or has a tag that does not fit its value (`!!int x`)."""


class PlainLoader(yaml.SafeLoader):
    """`yaml.SafeLoader`, which makes nothing but plain values, with an end to aliases."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; one alias more, if it is one."""
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > ALIASES:
                raise yaml.composer.ComposerError(
                    None, None, f"more than {ALIASES} aliases", self.peek_event().start_mark
                )
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Take in what `<<` names."""
        super().flatten_mapping(node)
        if len(node.value) > MERGED:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MERGED} keys", node.start_mark)


def parse(text: str) -> Any:
    """The plain values in a YAML text; raises one of WRONG."""
    return yaml.load(text, PlainLoader)


def read_yaml(path: Path, what: str) -> Any:
    """The plain values in a YAML file, which errors call `what`."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > LARGEST:
        raise InputError(f"{what} {path} has more than {LARGEST >> 20} MB: it is no such file")
    try:
        return parse(content.decode("utf-8"))
    except WRONG as error:
        raise InputError(f"{what} {path} is not plain YAML: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What a parser found and where, on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem
