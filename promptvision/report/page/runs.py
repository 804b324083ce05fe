"""What a page keeps of every run: its facts, config and log, packed until somebody opens them."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptvision.report.collect import Run
from promptvision.report.kinds import TITLES
from promptvision.report.names import method_name
from promptvision.report.report import Report
from promptvision.report.tables.over_shots import shots_name
from promptvision.report.tables.table import one_line, without_folders

MOST_OF_FILE = 20_000
"""Bytes that the page keeps of a run's config, and of the end of its log."""
MOST_OF_RUNS = 20_000_000
"""Bytes that it keeps of all runs' files, before they are packed; later runs are then without them."""
FACTS = (
    *("method", "backbone", "dataset", "shots", "class_subset", "seed", "split", "n", "accuracy", "per_class_mean"),
    *("macro_f1", "ece", "learned_parameters", "epochs", "seconds", "precision", "train_transform", "test_transform"),
    *("templates", "classes", "bad_pictures", "left_out", "train_hash", "test_hash"),
)
"""Keys of result.json that a run's entry shows."""
NOT_SHOWN = "code"
"""Of `environment`: where on somebody's machine the code lay."""


def run_groups(report: Report) -> dict[str, list[dict[str, Any]]]:
    """{title of a protocol: its runs in the order of its table}, each with its `number`, what it is, its folder and
    accuracy; a run of two protocols stands in the first."""
    numbers = {id(run): number for number, run in enumerate(report.runs)}
    groups: dict[str, list[dict[str, Any]]] = {}
    for title, label, run in _in_order(report):
        if id(run) in numbers:
            told = {"number": numbers.pop(id(run)), "is": _what(run, label), "name": one_line(run.name)}
            groups.setdefault(title, []).append({**told, "accuracy": f"{run.result['accuracy']:.1f}"})
    return groups


def _in_order(report: Report) -> Iterator[tuple[str, str, Run]]:
    """(title of a protocol, label of its row, run), and at last every run once more, for those in no table."""
    for section in report.sections:
        for row in section.rows:
            for cell in row.cells:
                yield from ((TITLES[section.kind], row.label, run) for run in cell.runs)
    yield from (("In no table", method_name(run.result), run) for run in report.runs)


def _what(run: Run, label: str) -> str:
    """`CoOp, dtd, 16 shots, seed 1`"""
    result, protocol = run.result, run.result.get("protocol") or {}
    dataset = result["dataset"] if isinstance(result["dataset"], str) else ", ".join(map(str, result["dataset"]))
    domains = [f"{protocol.get('SOURCE') or 'all'} → {protocol.get('TARGET') or 'all'}"]
    told = [label, dataset, *(domains if protocol.get("SOURCE") or protocol.get("TARGET") else [])]
    told += [shots_name(result["shots"])] if result.get("shots") else []
    return one_line(", ".join(map(str, [*told, f"seed {result['seed']}"])))


def packed(runs: Sequence[Run]) -> str:
    """[{facts, files: [[name, text] ...]} ...] of all runs as JSON, gzipped, in letters that HTML takes as they are."""
    text = json.dumps(list(_contents(runs)), separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode("ascii")


def _contents(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    left = MOST_OF_RUNS
    for run in runs:
        files = [["config.yaml", _file(run.folder / "config.yaml", first=True)]]
        files += [["log.txt", _file(run.folder / "log.txt")]]
        left -= sum(len(text) for _, text in files)
        yield {"facts": _facts(run), "files": files if left > 0 else []}


def _facts(run: Run) -> dict[str, str]:
    told = {key: run.result[key] for key in FACTS if run.result.get(key) not in (None, "", [], {})}
    tests = {f"accuracy, {place}": test["accuracy"] for place, test in run.evals.items()}
    found = run.result.get("environment")
    environment = {key: value for key, value in found.items() if key != NOT_SHOWN} if isinstance(found, Mapping) else {}
    shown = {"environment": ", ".join(f"{key} {value}" for key, value in environment.items() if value is not None)}
    return {key: _short(value) for key, value in {**told, **tests, **(shown if environment else {})}.items()}


def _short(value: Any) -> str:
    """A fact as text of a bearable length."""
    text = without_folders(f"{value:.6g}" if isinstance(value, float) else str(value))
    return text if len(text) <= 2000 else f"{text[:2000]} ... ({len(text):,} characters)"


def _file(path: Path, first: bool = False) -> str:
    """The beginning or the end of a text file; empty if it is not there."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(0 if first else max(0, size - MOST_OF_FILE))
            text = file.read(MOST_OF_FILE).decode("utf-8", errors="replace")
    except OSError:
        return ""
    cut = "" if size <= MOST_OF_FILE else f"({size:,} bytes; the {'first' if first else 'last'} {MOST_OF_FILE:,}:)\n"
    return without_folders(cut + re.sub(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f]", "", text))
