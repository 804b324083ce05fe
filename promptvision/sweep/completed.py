"""Runs and tests that are done once: one finished with the same config is kept, a stopped one is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from promptvision.atomic import read_json, write_result
from promptvision.config import dump, resolved
from promptvision.engine.earlier_run import earlier_result, same_run
from promptvision.engine.results.evaluation_file import evaluation_file, stored_evaluations

if TYPE_CHECKING:
    from promptvision.engine.loop import Watch
    from promptvision.engine.together.stack import Member

Families = Mapping[str, Any]
"""The modules that METHOD.FAMILY may name."""


def started(cfg: CfgNode, folder: str | Path) -> bool:
    """Return whether the run in a folder, finished or not, has this config."""
    return same_run(resolved(cfg), folder)


def finished(cfg: CfgNode, folder: str | Path) -> dict[str, Any] | None:
    """Return the result of the finished run in a folder, if it has this config."""
    result = Path(folder) / "result.json"
    return read_json(result) if started(cfg, folder) and result.is_file() else None


def once(
    cfg: CfgNode,
    families: Families,
    folder: str | Path = "",
    *,
    overwrite: bool = False,
    progress: bool = True,
    watch: Watch | None = None,
    member: Member | None = None,
) -> dict[str, Any]:
    """Return the result of the run in `folder` (empty: OUTPUT_DIR); start or resume it unless it is finished.

    Another run there raises InputError, or is replaced with `overwrite`; a process that trains there is waited for.
    `watch` may stop a run early, which raises Pruned. `member`: its place among runs that train together.
    """
    folder = folder or cfg.OUTPUT_DIR
    found = earlier_result(resolved(cfg), folder, overwrite=overwrite)
    if found is not None:
        return found
    from promptvision.engine.run_folder import RunFolder  # torch, which a dry run need not spend seconds on
    from promptvision.experiment.data import check_place
    from promptvision.experiment.run import run

    check_place(cfg, folder)
    with RunFolder(folder, wait=True) as open_folder:
        open_folder.resume = started(cfg, folder)
        open_folder.overwrite = overwrite and not open_folder.resume
        return run(cfg, families, open_folder, progress=progress, watch=watch, member=member)


def retested(cfg: CfgNode, folder: str | Path, name: str) -> dict[str, Any] | None:
    """Return the result stored as `eval-<name>` beside the run in a folder, if it was tested with this config."""
    stored = list(stored_evaluations(folder, name))
    ours = config_hash(cfg) if stored else ""
    return next((each for each in stored if each.get("config_hash") == ours), None)


def retest_once(cfg: CfgNode, families: Families, folder: str | Path, name: str) -> dict[str, Any]:
    """Return the result stored as `eval-<name>` beside the finished run in a folder, after testing it unless it is
    done."""
    found = retested(cfg, folder, name)
    if found is None:
        from promptvision.experiment.run import retest

        file = partial(evaluation_file, folder, name)
        found = {"config_hash": config_hash(cfg), **retest(cfg, families, folder, progress=False, file=file)}
        write_result(file(found), found)
    return found


def config_hash(cfg: CfgNode) -> str:
    """Return the SHA-256 of the whole config."""
    return hashlib.sha256(dump(cfg).encode()).hexdigest()
