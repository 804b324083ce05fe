"""A report as one HTML file that needs no network.

Whatever comes from run folders is text: jinja2 escapes it, nothing of it reaches the script or the style, and the
page's own policy lets no script run but that one. Figures are pictures, in which nothing can run either.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from promptvision.report.figures import Drawn
from promptvision.report.layout import one_line
from promptvision.report.report import Report
from promptvision.report.runs import Run

FILES = Path(__file__).with_name("page_files")
MOST_OF_FILE = 20_000
"""Bytes that the page keeps of a run's config, and of the end of its log."""
MOST_OF_RUNS = 8_000_000
"""Bytes that it keeps of all runs' files; later runs are then named without them."""
FACTS = (
    *("method", "backbone", "dataset", "shots", "class_subset", "seed", "split", "n", "accuracy", "per_class_mean"),
    *("macro_f1", "ece", "learned_parameters", "epochs", "seconds", "precision", "train_transform", "test_transform"),
    *("templates", "classes", "bad_pictures", "left_out", "train_hash", "test_hash", "environment"),
)
"""Keys of result.json that a run's entry shows."""


def write_page(report: Report, drawn: Sequence[Drawn], path: str | Path) -> None:
    """Write the page."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(page(report, drawn).encode("utf-8", errors="replace"))


def page(report: Report, drawn: Sequence[Drawn]) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((FILES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return environment.get_template("page.html").render(
        name=one_line(report.name),
        tables=report.tables,
        remarks=report.remarks,
        figures=[{"title": each.title, "source": _data(each.svg)} for each in drawn],
        runs=_runs(report.runs),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
    )


def _hash(text: str) -> str:
    """What lets this very text run, and no other (CSP level 2)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What the page shows of each run."""
    left, shown = MOST_OF_RUNS, list[dict[str, Any]]()
    for run in runs:
        files = [
            ("config.yaml", _file(run.folder / "config.yaml", first=True)),
            ("log.txt", _file(run.folder / "log.txt")),
        ]
        told = {key: _short(run.result[key]) for key in FACTS if run.result.get(key) not in (None, "", [], {})}
        tests = {f"accuracy, {place}": _short(test["accuracy"]) for place, test in run.evals.items()}
        size = sum(len(text) for _, text in files) + sum(map(len, told.values()))
        files = files if size <= left else []
        left -= size if files else 0
        accuracy = f"{run.result['accuracy']:.1f}"
        shown.append({"name": run.name, "accuracy": accuracy, "facts": {**told, **tests}, "files": files})
    return shown


def _short(value: Any) -> str:
    """A fact as text of a bearable length."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
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
    return cut + re.sub(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f]", "", text)
