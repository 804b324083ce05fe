"""A report as one HTML file that needs no network.

Everything from run folders is text: jinja2 escapes it, or it is packed and the page's script inserts it as text. None
of it reaches the script or the style, and the page's policy allows no other script. Figures are images, in which
nothing can run either.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptvision.atomic import write_atomically
from promptvision.errors import counted
from promptvision.report.figures.draw import Drawn
from promptvision.report.kinds import TITLES
from promptvision.report.page.details import Samples
from promptvision.report.page.runs import pack, packed, run_groups
from promptvision.report.page.template import render
from promptvision.report.report import Report

VIEW_BOX = re.compile(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"')
VERSIONS = {"promptvision": "promptvision", "python": "Python", "torch": "PyTorch", "timm": "timm"}
VERSIONS |= {"open_clip_torch": "open_clip", "numpy": "NumPy", "computes_on": "on"}
"""Keys of result.json's `environment` that the introduction names, and their names there."""


def write_page(report: Report, drawn: Sequence[Drawn], path: str | Path, samples: Samples | None = None) -> None:
    """Write the page of a report with its figures, and with sample images of its datasets if they are given."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(report, drawn, samples or {}).encode("utf-8", errors="replace"))


def page(report: Report, drawn: Sequence[Drawn], samples: Samples = MappingProxyType({})) -> str:
    """Return the page's HTML."""
    return render(
        "page.html",
        name=report.name,
        introduction=introduction(report),
        protocols=protocols(report, drawn),
        remarks=[remark.replace(f"{report.folder}/", "") for remark in report.remarks],
        groups=run_groups(report),
        packed=packed(report.runs, samples),
        samples=pack(dict(samples)),
    )


def introduction(report: Report) -> list[str]:
    """Return a sentence about the runs, and one about the versions of the software that computed them."""
    results = [run.result for run in report.runs]
    methods = counted(len({row.label for section in report.sections for row in section.rows}), "method")
    seeds = counted(len({result["seed"] for result in results}), "seed")
    backbones = sorted({str(result["backbone"]) for result in results})
    named = f"backbone{'s' * (len(backbones) > 1)} {', '.join(backbones)}"
    runs = f"{counted(len(results), 'run')} of {methods} with {seeds} in {counted(len(report.sections), 'protocol')}"
    found = versions(result["environment"] for result in results if isinstance(result.get("environment"), Mapping))
    return [f"{runs}; {named}.", *([f"Computed with {', '.join(found)}."] if found else [])]


def versions(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return `promptvision 0.2.0`, `Python 3.11.7 and 3.12.1` ...: all versions that some run names."""
    found: dict[str, dict[str, None]] = {key: {} for key in VERSIONS}
    for environment in environments:
        for key in (key for key in VERSIONS if environment.get(key)):
            found[key][str(environment[key])[:40]] = None
    return [f"{VERSIONS[key]} {' and '.join(each)}" for key, each in found.items() if each]


def protocols(report: Report, drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Return the title of each section, its tables with their captions, and its figures."""
    found = []
    for section in report.sections:
        title, tables = TITLES[section.kind], []
        for table in (table for table in report.tables if table.kind == section.kind):
            table.mark_ties()
            caption = table.title.removeprefix(title).lstrip(":, ")
            tables.append((caption.replace("against the literature", "Against the literature"), table))
        figures = [figure(each) for each in drawn if each.drawing.kind == section.kind]
        found.append({"id": section.kind, "title": title, "tables": tables, "figures": figures})
    return found


def figure(drawn: Drawn) -> dict[str, Any]:
    """Return the source of an <img>, and its size, so that the page keeps its place before it is decoded."""
    svg = drawn.file(".svg").read_bytes()
    width, height = (round(float(points) * 96 / 72) for points in VIEW_BOX.findall(svg)[0])
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    drawing = drawn.drawing
    return {"title": drawing.title, "about": drawing.about, "source": source, "width": width, "height": height}
