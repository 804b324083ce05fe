"""Runs and tests that are done once: the same config in the same folder is never run again, a stopped one goes on."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptvision.atomic import read_json, write_json
from promptvision.config import dump
from promptvision.engine.metrics_file import read_rows
from promptvision.engine.run_folder import RunFolder
from promptvision.engine.train import Watch
from promptvision.experiment.build import Families
from promptvision.experiment.run import retest, run

LOG = logging.getLogger(__name__)


def finished(cfg: CfgNode, folder: str | Path = "") -> dict[str, Any] | None:
    """The result of the finished run of this very config in its OUTPUT_DIR, or in `folder`, if there is one."""
    result = Path(folder or cfg.OUTPUT_DIR) / "result.json"
    return read_json(result) if _started(cfg, result.parent) and result.is_file() else None


def validations(cfg: CfgNode) -> dict[int, dict[str, float]]:
    """{epoch (from 0): scores} of what this very config was validated on in its OUTPUT_DIR, finished or not."""
    folder = Path(cfg.OUTPUT_DIR)
    rows = read_rows(folder / "metrics.jsonl") if _started(cfg, folder) else []
    return {row["epoch"]: row["val"] for row in rows if "val" in row}


def once(
    cfg: CfgNode, families: Families, folder: str | Path = "", *, progress: bool = True, watch: Watch | None = None
) -> dict[str, Any]:
    """The result of the finished run of this very config in its OUTPUT_DIR, else of a new run or the rest of one; of a
    stream of tasks where CONTINUAL asks for one.

    `folder`: where the run lies in place of OUTPUT_DIR. `watch` may give a run up, which raises Pruned.
    """
    path = Path(folder or cfg.OUTPUT_DIR)
    found = finished(cfg, path)
    if found is not None:
        return found
    with RunFolder(path, resume=_started(cfg, path)) as open_folder:
        return run(cfg, families, open_folder, progress=progress, watch=watch)


def _started(cfg: CfgNode, folder: Path) -> bool:
    config = folder / "config.yaml"
    return config.is_file() and config.read_text(encoding="utf-8") == dump(cfg)


def retested(cfg: CfgNode, folder: str | Path, name: str) -> dict[str, Any] | None:
    """The result of the test with this very config in `eval-<name>.json` of the run in `folder`, if there is one."""
    path = _test_file(folder, name)
    found = read_json(path) if path.is_file() else {}
    return found if found.get("config_hash") == config_hash(cfg) else None


def retest_once(cfg: CfgNode, families: Families, folder: str | Path, name: str) -> dict[str, Any]:
    """The finished run in `folder`, tested with this config: the result in its `eval-<name>.json`, else a new one."""
    found = retested(cfg, folder, name)
    if found is None:
        found = {"config_hash": config_hash(cfg), **retest(cfg, families, folder, progress=False)}
        write_json(_test_file(folder, name), found)
    return found


def config_hash(cfg: CfgNode) -> str:
    """SHA-256 of the whole config."""
    return hashlib.sha256(dump(cfg).encode()).hexdigest()


def _test_file(folder: str | Path, name: str) -> Path:
    return Path(folder) / f"eval-{name}.json"
