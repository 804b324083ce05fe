"""Runs and tests that are done once: the same config in the same folder is never run again, a stopped one goes on."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptvision.config import dump
from promptvision.engine.checkpoint import read_json, write_json
from promptvision.engine.log import RunFolder
from promptvision.experiment import Families, retest, run

LOG = logging.getLogger(__name__)


def once(cfg: CfgNode, families: Families) -> dict[str, Any]:
    """The result of the finished run of this very config in its OUTPUT_DIR, else of a new run or the rest of one."""
    folder = Path(cfg.OUTPUT_DIR)
    config, result = folder / "config.yaml", folder / "result.json"
    started = config.is_file() and config.read_text(encoding="utf-8") == dump(cfg)
    if started and result.is_file():
        return read_json(result)
    with RunFolder(folder, resume=started) as open_folder:
        return run(cfg, families, open_folder)


def retest_once(cfg: CfgNode, families: Families, folder: str | Path, name: str) -> dict[str, Any]:
    """The finished run in `folder`, tested with this config: the result in its `eval-<name>.json`, else a new one."""
    path = Path(folder) / f"eval-{name}.json"
    config = hashlib.sha256(dump(cfg).encode()).hexdigest()
    if path.is_file():
        found = read_json(path)
        if found.get("config_hash") == config:
            return found
    result = {"config_hash": config, **retest(cfg, families, folder, progress=False)}
    write_json(path, result)
    return result
