"""From a YAML file with `_BASE_` and `KEY VALUE` overrides to one frozen, checked yacs config.

The families come in as a mapping of name to module (`METHODS`, `options(name)`), so that nothing here knows a method.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as short
from types import ModuleType
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from promptvision.errors import InputError, unknown
from promptvision.schema import KEYS, Key

OPTIONS = "METHOD.OPTIONS"
COMMAND_LINE = "command line"
ROWS = {key.name: key for key in KEYS}
SECTIONS = {"", OPTIONS} | {name.rpartition(".")[0] for name in ROWS}
TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


class Setting(NamedTuple):
    """A value somebody gave, and where: the path of a file, or the command line."""

    value: Any
    source: str


def load_config(path: str | Path, overrides: Sequence[Any], families: Mapping[str, Any]) -> CfgNode:
    """The config of a file and its bases, with `overrides` (KEY, VALUE, KEY, VALUE ...) on top; frozen.

    Whatever is wrong with a file, a key or a value raises InputError.
    """
    given: dict[str, Setting] = {}
    for source, content in _chain(Path(path), ()):
        given.update(_settings(content, "", source))
    given.update(_overrides(overrides))
    return _assemble(given, families)


def method_options(cfg: CfgNode) -> dict[str, Any]:
    """METHOD.OPTIONS as the keyword arguments of the method's class: lower case, lists as tuples."""
    options = cfg.METHOD.OPTIONS.items()
    return {name.lower(): tuple(value) if isinstance(value, list) else value for name, value in options}


def resolved(cfg: CfgNode) -> dict[str, Any]:
    """The whole config as plain nested dicts."""
    return {name: resolved(value) if isinstance(value, CfgNode) else value for name, value in cfg.items()}


def dump(cfg: CfgNode) -> str:
    """The whole config as YAML, which `load_config` reads back to the same config."""
    return yaml.safe_dump(resolved(cfg), sort_keys=False, allow_unicode=True)


def summary(cfg: CfgNode, families: Mapping[str, Any]) -> str:
    """What is set differently from the defaults, one `KEY: value` a line."""
    rows = ROWS | _option_rows(cfg.METHOD.FAMILY, cfg.METHOD.NAME, families)
    always = ("METHOD.FAMILY", "METHOD.NAME", "BACKBONE.NAME", "DATASET.NAME", "SEED")
    values = _flat(resolved(cfg), "")
    lines = [f"{name}: {values[name]}" for name in rows if name in always or values[name] != _plain(rows[name].default)]
    return "\n".join(lines)


def _chain(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, dict[Any, Any]]]:
    """The contents of a file's bases and of the file itself, the remotest base first."""
    if path.resolve() in (earlier.resolve() for earlier in seen):
        raise InputError(f"the _BASE_ of {seen[-1]} closes a loop: {' -> '.join(map(str, (*seen, path)))}")
    content = _read(path, seen[-1] if seen else None)
    base = content.pop("_BASE_", None)
    if base is None:
        return [(str(path), content)]
    if not isinstance(base, str):
        raise InputError(f"{path}: _BASE_ takes the path of one file, not {short(base)}")
    return [*_chain(path.parent / base, (*seen, path)), (str(path), content)]


def _read(path: Path, child: Path | None) -> dict[Any, Any]:
    if not path.is_file():
        what = f"the _BASE_ of {child}, {path}," if child else f"config file {str(path)!r}"
        near = get_close_matches(path.name, sorted(other.name for other in path.parent.glob("*.y*ml")), n=1)
        raise InputError(f"{what} does not exist" + (f"; did you mean {str(path.parent / near[0])!r}?" if near else ""))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"config file {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not plain YAML: {_first_cause(error)}") from error
    if not isinstance(content, dict | None):
        raise InputError(f"{path} should hold KEY: value lines, not {short(content)}")
    return content or {}


def _first_cause(error: Exception) -> str:
    """What a parser found and where, on one line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(problem)


def _settings(content: Mapping[Any, Any], prefix: str, source: str) -> dict[str, Setting]:
    """Nested sections to `SECTION.KEY`: Setting; a name that the schema lacks is refused."""
    found: dict[str, Setting] = {}
    for part, value in content.items():
        name = f"{prefix}{part}"
        if name in SECTIONS:
            if not isinstance(value, Mapping | None):
                raise InputError(f"{source}: {name} is a section; set one of its keys, as in {_example(name)}")
            found.update(_settings(value or {}, f"{name}.", source))
        elif name in ROWS or name.startswith(f"{OPTIONS}."):
            found[name] = Setting(value, source)
        else:
            raise _unknown_key(name, [*ROWS, f"{OPTIONS}.NAME"], source)
    return found


def _overrides(pairs: Sequence[Any]) -> dict[str, Setting]:
    if len(pairs) % 2:
        raise InputError(f"overrides come as KEY VALUE pairs; {pairs[-1]!r} has no value or no key")
    return _settings(dict(zip(map(str, pairs[::2]), pairs[1::2], strict=True)), "", COMMAND_LINE)


def _assemble(given: dict[str, Setting], families: Mapping[str, Any]) -> CfgNode:
    family, name = (_value(ROWS[key], given.get(key)) for key in ("METHOD.FAMILY", "METHOD.NAME"))
    rows = ROWS | _option_rows(family, name, families)
    for key, setting in given.items():
        if key not in rows:
            raise _unknown_option(
                key, [row for row in rows if row.startswith(OPTIONS)], setting.source, f"{family} {name}"
            )
    cfg = CfgNode()
    for key, row in rows.items():
        *sections, last = key.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node[last] = _value(row, given.get(key))
    cfg.METHOD.setdefault("OPTIONS", CfgNode())
    cfg.freeze()
    return cfg


def _option_rows(family: str, name: str, families: Mapping[str, ModuleType]) -> dict[str, Key]:
    """The method's options as rows of the schema."""
    if family not in families:
        raise unknown("METHOD.FAMILY", family, families)
    if name not in families[family].METHODS:
        raise unknown(f"METHOD.NAME of the {family} family", name, families[family].METHODS)
    return {
        f"{OPTIONS}.{option}": Key(f"{OPTIONS}.{option}", default, "", items=_item_type(default))
        for option, default in families[family].options(name).items()
    }


def _item_type(default: Any) -> type:
    """What the entries of an option's list must be: as in its default, anything if that is empty."""
    kinds = {type(item) for item in default} if isinstance(default, list | tuple) else set()
    return float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else object


def _value(row: Key, setting: Setting | None) -> Any:
    """A setting in the row's type, checked; without a setting, the default."""
    if setting is None:
        return _plain(row.default)
    value = setting.value
    if setting.source == COMMAND_LINE and isinstance(value, str) and not isinstance(row.default, str):
        value = _decode(value)
    where = f"{setting.source}: {row.name}"
    if isinstance(row.default, list | tuple):
        return _list(row, value, where)
    value = _scalar(type(row.default), value, where)
    if row.choices and value not in row.choices and not (row.pattern and re.fullmatch(row.pattern, value)):
        raise InputError(f"{setting.source}: {unknown(f'value of {row.name}', value, row.choices)}")
    return _in_range(row, value, where)


def _list(row: Key, value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} takes a list such as {_plain(row.default) or [1, 2]}, not {short(value)}")
    if row.lengths and len(value) not in row.lengths:
        raise InputError(f"{where} takes {' or '.join(map(str, row.lengths))} entries, not {len(value)}")
    return [_in_range(row, _scalar(row.items, item, f"an entry of {where}"), where) for item in value]


def _scalar(kind: type, value: Any, where: str) -> Any:
    """`value` as `kind`; whole numbers and texts like 1e-3 pass as numbers; `object` and None take any scalar."""
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            value = float(value)
    if kind in TYPES and type(value) is not kind:
        quote = "; put it in quotes" if kind is str and isinstance(value, bool | int | float) else ""
        raise InputError(f"{where} takes {TYPES[kind]}, not {short(value)}{quote}")
    if kind not in TYPES and not isinstance(value, bool | int | float | str | list | None):
        raise InputError(f"{where} takes a plain value, not {short(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} takes a finite number, not {value}")
    return value


def _in_range(row: Key, value: Any, where: str) -> Any:
    if row.low is not None and value < row.low:
        raise InputError(f"{where} must be at least {row.low:g}, not {value}")
    if row.high is not None and value > row.high:
        raise InputError(f"{where} must be at most {row.high:g}, not {value}")
    return value


def _decode(text: str) -> Any:
    """What a command-line value means as YAML; the text itself where it means nothing else."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | list | None) else text


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, list | tuple) else default


def _flat(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _example(section: str) -> str:
    return next((name for name in ROWS if name.startswith(f"{section}.")), f"{section}.NAME")


def _unknown_key(name: str, keys: Sequence[str], source: str) -> InputError:
    """Suggests the key of the same last word, else the nearest, else the keys of the section, else the sections."""
    upper = name.upper()
    near = [key for key in keys if key.rpartition(".")[2] == upper] or get_close_matches(upper, keys, n=1, cutoff=0.6)
    section = upper.partition(".")[0]
    inside = [key for key in keys if key.startswith(f"{section}.")]
    hint = f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(inside or sorted(SECTIONS - {''}))}"
    return InputError(f"{source}: unknown key {name!r}; {hint}")


def _unknown_option(name: str, options: Sequence[str], source: str, method: str) -> InputError:
    option, *known = (key.removeprefix(f"{OPTIONS}.") for key in (name, *options))
    if not known:
        return InputError(f"{source}: {name} does not exist; the method {method} has no options")
    return InputError(f"{source}: {unknown(f'METHOD.OPTIONS of {method}', option, known)}")
