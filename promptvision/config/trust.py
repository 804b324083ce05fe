"""Configs of existing runs, which a stranger may have written: they neither run code nor say where to write."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from promptvision.config.schema import KEYS
from promptvision.errors import InputError
from promptvision.own_code import names_code, own_code

COMMAND_LINE = "command line"
"""Source of a setting that the user has just typed."""
RUN_FILES = ("learned.safetensors", "result.json", "last.ckpt", "stream.json", "metrics.jsonl")
"""Files beside the config of a run that has started."""


def has_run_files(folder: Path) -> bool:
    """Return whether a run has written to a folder."""
    return any((folder / name).exists() for name in RUN_FILES)


def check_run(config: Path) -> None:
    """Raise InputError for a folder without the `config` of a run; it names a run inside, such as the best of a fit."""
    folder = config.parent
    if config.exists():
        return
    if not folder.is_dir():
        raise InputError(f"the run {folder} {'is a file, not a folder' if folder.exists() else 'does not exist'}")
    inside = next(
        (place for place in (folder / "best", *sorted(folder.glob("*"))) if (place / config.name).exists()), None
    )
    hint = f"; did you mean {inside}?" if inside else ""
    raise InputError(f"{folder} is no folder of a run: it has no {config.name}{hint}")


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that say where to write; an empty one, which writes nothing, stays."""
    places = {key.name for key in KEYS if key.place}
    return {name: setting for name, setting in settings.items() if name not in places or setting.value == ""}


def check_code(settings: Mapping[str, Any], run: Path, trust: bool) -> None:
    """Raise InputError for a function or class that the config of a run names, unless it is trusted or typed again.

    Trusted code, and any if the command is given in the folder of the run, is not looked for in that folder or in
    the current one.
    """
    for key, kind in ((key.name, key.code) for key in KEYS if key.code):
        setting = settings.get(key)
        if setting is None or not names_code(setting.value):
            continue
        repeated = setting.typed
        if not repeated and not trust:
            raise InputError(
                f"{setting.source}: {key} names the {kind} {setting.value}, which would be imported and called; if "
                f"you trust this run, say --trust, or repeat {key} {setting.value} on the command line"
            )
        if not repeated or Path.cwd().is_relative_to(run.resolve()):
            _import_from_elsewhere(f"{key} {setting.value}", str(setting.value).partition(":")[0], run)


def _import_from_elsewhere(what: str, module: str, run: Path) -> None:
    """Import a module that is installed or in a folder of PYTHONPATH, but not because the current folder holds it."""
    named = {Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place}
    hidden = {Path.cwd(), run.resolve()} - named
    before = sys.path[:]
    sys.path[:] = [place for place in before if Path(place).resolve() not in hidden]
    try:
        with own_code(what):
            import_module(module)
    finally:
        sys.path[:] = before
