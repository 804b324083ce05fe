"""A key of the config: its default, its allowed values and its meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from promptvision.errors import InputError, unknown
from promptvision.safe_yaml import WRONG, parse

OPTIONS = "METHOD.OPTIONS"
MOST: dict[type, float] = {int: 1_000_000, float: 1e9}
"""Limit of a number, on both sides of 0, for keys that state none."""
MOST_OF_OPTION = 10_000
"""Limit of a method's whole numbers: tokens, layers, ranks, views."""
KINDS: dict[type, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def short(value: Any) -> str:
    """Shorten a value for an error message; a file can hold lists whose full text would fill the memory."""
    brief = Repr()
    brief.maxlevel, brief.maxother = 2, 60
    return brief.repr(value)


@dataclass(frozen=True)
class Key:
    """A key of the config, whose type is that of `default`; None allows any plain value."""

    name: str
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    """A regular expression for names that `choices` cannot list."""
    low: float | None = None
    high: float | None = None
    items: type = float
    """Type of a list's entries; `object` for any plain value."""
    words: tuple[str, ...] = ()
    """Names that a number may have in place of a value."""
    lengths: tuple[int, ...] = ()
    """Allowed lengths of a list; empty for any."""
    code: str = ""
    """The kind of what `module:attribute` names, function or class, if the value may name code that a run calls."""
    place: bool = False
    """True if the value says where a run writes."""

    @property
    def initial(self) -> Any:
        """The default as the config stores it: a new list for a list or tuple."""
        return list(self.default) if isinstance(self.default, list | tuple) else self.default

    @property
    def meaning(self) -> str:
        """The help, with the choices if it does not name them all."""
        complete = all(choice in self.help for choice in self.choices)
        return self.help if complete else f"{self.help} One of {', '.join(self.choices)}."

    def decode(self, text: str) -> Any:
        """Parse a command-line value: text for a text key, otherwise YAML, or text if it is not YAML."""
        if isinstance(self.default, str):
            return text
        try:
            value = parse(text)
        except WRONG:
            return text
        return value if isinstance(value, bool | int | float | list | None) else text

    def accept(self, value: Any, source: str) -> Any:
        """Return `value` in the key's type; raise InputError, naming `source`, for a wrong type, choice or range."""
        where = f"{source}: {self.name}"
        if isinstance(self.default, list | tuple):
            return self._accept_list(value, where)
        if isinstance(value, str) and value in self.words:
            return value
        value = _scalar(type(self.default), value, where, words=self.words)
        if self.choices and value not in self.choices and not (self.pattern and re.fullmatch(self.pattern, value)):
            choices = [choice or '""' for choice in self.choices]
            raise InputError(f"{source}: {unknown(f'value of {self.name}', value, choices)}")
        return self._in_range(value, where)

    def _accept_list(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} takes a list such as {self.initial or [1, 2]}, not {short(value)}")
        if self.lengths and len(value) not in self.lengths:
            raise InputError(f"{where} takes {' or '.join(map(str, self.lengths))} entries, not {len(value)}")
        return [self._in_range(_scalar(self.items, item, f"an entry of {where}"), where) for item in value]

    def _in_range(self, value: Any, where: str) -> Any:
        if type(value) not in MOST:
            return value
        low = -MOST[type(value)] if self.low is None else self.low
        high = MOST[type(value)] if self.high is None else self.high
        if value < low:
            raise InputError(f"{where} must be at least {low:g}, not {short(value)}")
        if value > high:
            raise InputError(f"{where} must be at most {high:.0f}, not {short(value)}")
        return value


def _scalar(kind: type, value: Any, where: str, lists: bool = True, words: tuple[str, ...] = ()) -> Any:
    """Return `value` as `kind`; whole numbers and texts like 1e-3 are accepted as numbers.

    Any other `kind` accepts a plain value or, with `lists`, a list of plain values."""
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            value = float(value)
    if kind in KINDS and type(value) is not kind:
        quotes = "; put it in quotes" if kind is str and isinstance(value, bool | int | float) else ""
        raise InputError(f"{where} takes {' or '.join([KINDS[kind], *words])}, not {short(value)}{quotes}")
    if isinstance(value, list | tuple) and kind not in KINDS and lists:
        return [_scalar(object, item, where, lists=False) for item in value]
    if not isinstance(value, bool | int | float | str | None):
        raise InputError(f"{where} takes a plain value, not {short(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} takes a finite number, not {value}")
    return value


def option_rows(options: Mapping[str, Any]) -> dict[str, Key]:
    """Return the options of a method, with their defaults, as keys of the config."""
    rows = {}
    for option, default in options.items():
        # the entries of a list have the type of the default's entries, any type if it has none
        kinds = {type(item) for item in default} if isinstance(default, list | tuple) else set()
        items = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else object
        high = 2**32 - 1 if option == "SEED" else MOST_OF_OPTION if int in (type(default), items) else None
        rows[f"{OPTIONS}.{option}"] = Key(f"{OPTIONS}.{option}", default, high=high, items=items)
    return rows
