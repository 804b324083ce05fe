"""The files of evaluations beside a run: each evaluation has one of its own, and another never takes its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from promptvision.atomic import file_hash, read_json
from promptvision.errors import InputError

NAMED = ("run_hash", "evaluation_hash")
"""Keys that tell two evaluations apart: the run, and what it was evaluated on, with which settings."""


def evaluation_file(folder: str | Path, name: str, result: Mapping[str, Any]) -> Path:
    """Return the file in which a run folder keeps an evaluation: that of the same evaluation, if it is stored.

    It is eval-<name>.json, unless that file holds another evaluation; then a hash is part of its name.
    """
    run, evaluated = (result[key][:8] for key in NAMED)
    names = (name, f"{name}-{evaluated}", f"{name}-{evaluated}-{run}")
    files = [Path(folder, f"eval-{each}.json") for each in names]
    same = {key: result[key] for key in NAMED}
    return next((file for file in files if not file.is_file() or same.items() <= _content(file).items()), files[-1])


def stored_evaluations(folder: str | Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the evaluations of this name that belong to the run in a folder; an older version named no run."""
    run = file_hash(Path(folder, "learned.safetensors"))
    for file in sorted(Path(folder).glob(f"eval-{escape(name)}*.json")):
        found = _content(file)
        if found.get("run_hash", run) == run:
            yield found


def _content(file: Path) -> dict[str, Any]:
    """Return the contents of a file, nothing if they make no sense."""
    try:
        found = read_json(file)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}
