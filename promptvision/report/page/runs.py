"""Entries of a page for all runs: facts, config and log, packed until the reader opens them."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptvision.report.collect import Run
from promptvision.report.kinds import TITLES
from promptvision.report.names import method_name
from promptvision.report.page.details import Samples, changing_settings, details
from promptvision.report.report import Report
from promptvision.report.tables.over_shots import shots_name
from promptvision.report.tables.table import without_folders

MOST_OF_FILE = 20_000
"""Bytes that the page keeps of the beginning of a run's config, and of the end of its log."""
MOST_OF_RUNS = 20_000_000
"""Bytes that it keeps of the files of all runs, before they are packed; later runs have no files on the page."""
MOST_OF_FACT = 2000
"""Characters that it keeps of one fact."""
FACTS = (
    *("method", "backbone", "dataset", "shots", "class_subset", "seed", "split", "n", "accuracy", "per_class_mean"),
    *("macro_f1", "ece", "learned_parameters", "epochs", "seconds", "precision"),
)
"""Keys of result.json that a run's entry shows."""
FOLDED = (
    *("train_transform", "test_transform", "templates", "classes", "bad_pictures", "left_out", "train_hash"),
    *("test_hash", "environment"),
)
"""Keys that it shows on demand."""
NOT_SHOWN = "code"
"""Key of `environment` with the user's own folder."""


def run_groups(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return {title of a protocol: its runs in the order of its table}; each run is in the first of its protocols."""
    placed = [
        (TITLES[section.kind], row.label, run)
        for section in report.sections
        for row in section.rows
        for cell in row.cells
        for run in cell.runs
    ]
    numbers = {id(run): number for number, run in enumerate(report.runs)}
    groups: dict[str, list[dict[str, Any]]] = {}
    for title, label, run in [*placed, *(("In no table", method_name(run.result), run) for run in report.runs)]:
        if id(run) in numbers:
            entry = {"number": numbers.pop(id(run)), "is": description(run, label), "name": run.name}
            groups.setdefault(title, []).append({**entry, "accuracy": f"{run.result['accuracy']:.2f}"})
    return groups


def description(run: Run, label: str) -> str:
    """Return `CoOp, dtd, 16 shots, seed 1`."""
    result, protocol = run.result, run.result.get("protocol") or {}
    words = [label, *(result["dataset"] if isinstance(result["dataset"], list) else [result["dataset"]])]
    if protocol.get("SOURCE") or protocol.get("TARGET"):
        words.append(f"{protocol.get('SOURCE') or 'all'} → {protocol.get('TARGET') or 'all'}")
    if result.get("shots"):
        words.append(shots_name(result["shots"]))
    return ", ".join(map(str, [*words, f"seed {result['seed']}"]))


def packed(runs: Sequence[Run], samples: Samples) -> str:
    """Return [{facts, folded, files: [[name, text] ...], and `details`} ...] of all runs, packed."""
    contents, left, keys = [], MOST_OF_RUNS, changing_settings(runs)
    for run in runs:
        config = file_text(run.folder / "config.yaml", first=True)
        files = [["config.yaml", config], ["log.txt", file_text(run.folder / "log.txt")]]
        left -= sum(len(text) for _, text in files)
        more = details(run, keys, samples) if left > 0 else {}
        contents.append({"facts": facts(run), "folded": FOLDED, "files": files if left > 0 else [], **more})
    return pack(contents)


def pack(content: Any) -> str:
    """Return plain values as gzipped JSON in base64."""
    text = json.dumps(content, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode("ascii")


def facts(run: Run) -> dict[str, str]:
    """Return the known FACTS and FOLDED facts of a run, its later tests and its environment as text."""
    found = {key: run.result.get(key) for key in (*FACTS, *FOLDED)}
    found |= {f"accuracy, {place}": test["accuracy"] for place, test in run.evals.items()}
    environment = run.result.get("environment")
    if isinstance(environment, Mapping):
        shown = {key: value for key, value in environment.items() if key != NOT_SHOWN and value is not None}
        found["environment"] = ", ".join(f"{key} {value}" for key, value in shown.items())
    texts = {}
    for key, value in found.items():
        if value not in (None, "", [], {}):
            number = isinstance(value, float)
            text = without_folders(f"{value:.2f}".rstrip("0").rstrip(".") if number else str(value))
            cut = f" ... ({len(text):,} characters)" if len(text) > MOST_OF_FACT else ""
            texts[key] = text[:MOST_OF_FACT] + cut
    return texts


def file_text(path: Path, first: bool = False) -> str:
    """Return the end of a text file, or its beginning (`first`); "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(0 if first else max(0, size - MOST_OF_FILE))
            text = file.read(MOST_OF_FILE).decode("utf-8", errors="replace")
    except OSError:
        return ""
    cut = f"(the {'first' if first else 'last'} {MOST_OF_FILE:,} of {size:,} bytes)\n" if size > MOST_OF_FILE else ""
    return without_folders(cut + re.sub(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f]", "", text))
