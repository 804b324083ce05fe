"""From a YAML file with `_BASE_` and `KEY VALUE` overrides to one frozen, checked yacs config.

The families come in as a mapping of name to module (`METHODS`, `options(name)`), so that nothing here knows a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from difflib import get_close_matches
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from promptvision.config.conditional import checked_table, holds, overrides_of
from promptvision.config.files import Files, read_files
from promptvision.config.key import OPTIONS, Key, option_rows
from promptvision.config.schema import KEYS
from promptvision.config.trust import COMMAND_LINE, check_code, check_run, has_run_files, without_places
from promptvision.errors import InputError, unknown, visible
from promptvision.safe_yaml import as_yaml

ROWS = {key.name: key for key in KEYS}
DEFAULTS = {key.name: key.accept(key.initial, "default") for key in KEYS}
ANY = Key(OPTIONS, None)
"""An option of a method that is not known yet."""
SECTIONS = {OPTIONS} | {name.rpartition(".")[0] for name in ROWS if "." in name}


class Setting(NamedTuple):
    """A value and its source: the path of a config file or a benchmark, or the command line."""

    value: Any
    source: str
    typed: bool = False
    """True for a word of the command line or a benchmark, which still has to be parsed as the key's type."""


def load_config(
    path: str | Path,
    overrides: Sequence[Any],
    families: Mapping[str, Any],
    *,
    trust: bool = False,
    of_run: bool = False,
) -> CfgNode:
    """Return the frozen config of a file and its bases, with `overrides` (KEY, VALUE, KEY, VALUE ...) on top.

    A file can have a SET, a list of {KEY: value ..., WHEN: {KEY: value or list of values ...}}: these win over its
    other lines where the keys in WHEN have these values, but not over a file with this _BASE_ or `overrides`. An
    option of a method in WHEN has to be set, for its default is not known then.
    `trust`: run code that a file in the folder of a run names, even if no override repeats them. `of_run`: open
    a run, whose config does not say where to write. Raises InputError for a wrong file, key or value.
    """
    if of_run:
        check_run(Path(path))
    return config_of(read_files(path), overrides, families, trust=trust, of_run=of_run)


def config_of(
    files: Files, overrides: Sequence[Any], families: Mapping[str, Any], *, trust: bool = False, of_run: bool = False
) -> CfgNode:
    """Return the config of files that are already read, as `load_config` does."""
    layers = _conditional(files, _overrides(overrides))
    settings = _merged([without_places(layer) for layer in layers[:-1]] + layers[-1:] if of_run else layers)
    folders = [Path(source).parent for source, _ in files]
    if runs := [folder for folder in reversed(folders) if of_run or has_run_files(folder)]:
        check_code(settings, runs[0], trust)
    return _assemble(settings, families)


def changed(cfg: CfgNode, overrides: Sequence[Any], families: Mapping[str, Any]) -> CfgNode:
    """Return a frozen copy of the config with `overrides` (KEY, VALUE, KEY, VALUE ...) on top."""
    return _assemble(_settings(resolved(cfg), "config") | _overrides(overrides), families)


def method_options(cfg: CfgNode) -> dict[str, Any]:
    """Return METHOD.OPTIONS as keyword arguments of the method's class: lower case, lists as tuples."""
    options = cfg.METHOD.OPTIONS.items()
    return {name.lower(): tuple(value) if isinstance(value, list) else value for name, value in options}


def resolved(cfg: CfgNode) -> dict[str, Any]:
    """Return the whole config as plain nested dicts."""
    return {name: resolved(value) if isinstance(value, CfgNode) else value for name, value in cfg.items()}


def dump(cfg: CfgNode) -> str:
    """Return the whole config as YAML, from which `load_config` reads the same config."""
    return as_yaml(resolved(cfg))


def summary(cfg: CfgNode, families: Mapping[str, Any]) -> str:
    """Return one `KEY: value` line for each key that identifies the run or overrides its default."""
    always = ("SEED", "METHOD.FAMILY", "METHOD.NAME", "BACKBONE.NAME", "DATASET.NAME", "DATASET.SHOTS")
    return "\n".join(
        visible(f"{name}: {value}")
        for name, (initial, value) in with_defaults(cfg, families).items()
        if name in always or value != initial
    )


def with_defaults(cfg: CfgNode, families: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {KEY: (default, value)} of all keys, with the options of the method."""
    host = (cfg.METHOD.OPTIONS.HOST,) if "HOST" in cfg.METHOD.OPTIONS else ()
    rows = ROWS | option_rows(families[cfg.METHOD.FAMILY].options(cfg.METHOD.NAME, *host))
    return {name: (row.initial, reduce(getitem, name.split("."), cfg)) for name, row in rows.items()}


def _settings(content: Mapping[Any, Any], source: str, prefix: str = "") -> dict[str, Setting]:
    """Flatten nested sections to SECTION.KEY: Setting; raise InputError for a name that is not in the schema."""
    found: dict[str, Setting] = {}
    for part, value in content.items():
        name = f"{prefix}{part}"
        if name in SECTIONS and isinstance(value, Mapping | None):
            found |= _settings(value or {}, source, f"{name}.")
        else:
            _check_name(name, source)
            found[name] = Setting(value, source)
    return found


def _conditional(files: Files, words: dict[str, Setting]) -> list[dict[str, Setting]]:
    """Return the settings of each file, with those of its SET that hold, and the command line's."""
    tables = [checked_table(source, content.get("SET", [])) for source, content in files]
    plain = [(source, {key: value for key, value in content.items() if key != "SET"}) for source, content in files]
    layers = [*(_settings(content, source) for source, content in plain), words]
    for place, table in enumerate(tables):
        source = files[place][0]
        for row in table:
            changes = _settings(overrides_of(row), source)
            given = {
                name: ROWS.get(name, ANY).decode(each.value) if each.typed else each.value
                for name, each in _merged(layers).items()
            }
            for key in row.get("WHEN", {}):
                _check_name(key, source)
                if key not in ROWS and key not in given:
                    raise InputError(f"{source}: WHEN asks for {key}, which is not set; set it beside METHOD.NAME")
            if holds(row, {name: key.initial for name, key in ROWS.items()} | given):
                layers[place] = layers[place] | changes
    return layers


def _overrides(words: Sequence[Any]) -> dict[str, Setting]:
    if joined := next((word for word in map(str, words[::2]) if "=" in word), None):
        raise InputError(f"overrides come as two words each: {joined.replace('=', ' ', 1)}, not {joined}")
    if len(words) % 2:
        raise InputError(f"overrides come as KEY VALUE pairs; the last one, {words[-1]!r}, is alone")
    found: dict[str, Setting] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        given = value if isinstance(value, Setting) else Setting(value, COMMAND_LINE)
        _check_name(str(name), given.source)
        found[name] = given._replace(typed=isinstance(given.value, str))
    return found


def _merged(layers: Sequence[Mapping[str, Setting]]) -> dict[str, Setting]:
    """Return the settings of all layers, later ones on top.

    An image size that is set beside the name of a backbone is that backbone's: a later layer with another one drops it.
    """
    given: dict[str, Setting] = {}
    sized = None  # the backbone of INPUT.SIZE
    for layer in layers:
        name = layer["BACKBONE.NAME"].value if "BACKBONE.NAME" in layer else None
        if "INPUT.SIZE" in layer:
            sized = name
        elif None not in (name, sized) and name != sized:
            del given["INPUT.SIZE"]
            sized = None
        given |= layer
    return given


def _check_name(name: str, source: str) -> None:
    """Raise InputError for an unknown key; suggest one of the same last word, the nearest, or its section's keys."""
    if name in ROWS or name.startswith(f"{OPTIONS}."):
        return
    inside = [key for key in ROWS if key.startswith(f"{name}.")]
    if inside or name == OPTIONS:
        example = f", such as {inside[0]}" if inside else ""
        raise InputError(f"{source}: {name} is a section; set one of its keys{example}")
    upper = name.upper()
    same = [key for key in ROWS if key.rpartition(".")[2] == upper.rpartition(".")[2]]
    near = get_close_matches(upper, same, n=1, cutoff=0.0) or get_close_matches(upper, [*ROWS, OPTIONS], n=1)
    siblings = [key for key in ROWS if key.startswith(f"{upper.partition('.')[0]}.")]
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(siblings or sorted(SECTIONS))}"
    raise InputError(f"{source}: unknown key {name!r}; {hint}")


def _assemble(given: Mapping[str, Setting], families: Mapping[str, Any]) -> CfgNode:
    """Return the frozen config of these settings, checked, with defaults for all other keys."""

    def value(row: Key) -> Any:
        content, source, typed = given.get(row.name) or Setting(row.initial, "default")
        return row.accept(row.decode(content) if typed else content, source)

    family = value(replace(ROWS["METHOD.FAMILY"], choices=tuple(families)))
    methods = families[family].METHODS
    name = value(replace(ROWS["METHOD.NAME"], choices=(*methods, *methods.aliases)))
    if name in methods.aliases:
        name = methods.aliases[name]
        given = {**given, "METHOD.NAME": Setting(name, given["METHOD.NAME"].source)}
    options = option_rows(families[family].options(name))
    title, host = f"{family} method {name}", options.get(f"{OPTIONS}.HOST")
    if host and (hosts := methods.hosts_of(name)):  # an addition has the options of its host too
        chosen = value(replace(host, choices=hosts))
        options, title = option_rows(families[family].options(name, chosen)), f"{title} with HOST {chosen}"
    _check_options(given, options, title)
    cfg = CfgNode({section: {} for section in sorted(SECTIONS - {OPTIONS})})
    cfg.METHOD.OPTIONS = CfgNode()
    for key, row in (ROWS | options).items():
        *sections, last = key.split(".")
        known = key in DEFAULTS and key not in given
        reduce(getitem, sections, cfg)[last] = copy(DEFAULTS[key]) if known else value(row)
    cfg.freeze()
    return cfg


def _check_options(given: Mapping[str, Setting], options: Mapping[str, Key], method: str) -> None:
    """Raise InputError for a setting of an option that the method does not have, with the nearest that it has."""
    known = [key.removeprefix(f"{OPTIONS}.") for key in options]
    for key, setting in given.items():
        if key in ROWS or key in options:
            continue
        option, source = key.removeprefix(f"{OPTIONS}."), setting.source
        if f"COMPUTE.{option.upper()}" in ROWS:
            raise InputError(f"{source}: {key} is no option of the {method}; set COMPUTE.{option.upper()}")
        if not known:
            raise InputError(f"{source}: {key} does not exist; the {method} has no options")
        sentence = f"{source}: {unknown(f'METHOD.OPTIONS of the {method}:', option, known)}"
        named_by = given.get("METHOD.NAME", setting).source
        if source not in (COMMAND_LINE, named_by):
            sentence += f"; {named_by} names another method than this file: choose a --config without these options"
        raise InputError(sentence)
