"""A report as one HTML file that needs no network.

Whatever comes from run folders is text: jinja2 escapes it, or it is packed and the page's script puts it in place as
text; nothing of it reaches the script or the style, and the page's own policy lets no script run but that one. Figures
are images, in which nothing can run either.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from promptvision.report.figures.draw import Drawn
from promptvision.report.kinds import TITLES
from promptvision.report.page.runs import packed, run_groups
from promptvision.report.report import Report
from promptvision.report.tables.table import one_line, without_folders

FILES = Path(__file__).parent
VIEW_BOX = re.compile(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"')
VERSIONS = {"promptvision": "promptvision", "python": "Python", "torch": "PyTorch", "timm": "timm"}
VERSIONS |= {"open_clip_torch": "open_clip", "numpy": "NumPy", "computes_on": "on"}
"""Keys of result.json's `environment` that the page's introduction tells, and what it calls them."""


def write_page(report: Report, drawn: Sequence[Drawn], path: str | Path) -> None:
    """Write the page."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(page(report, drawn).encode("utf-8", errors="replace"))


def page(report: Report, drawn: Sequence[Drawn]) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"breakable": _breakable, "without_folders": without_folders}
    style, script = ((FILES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return environment.get_template("page.html").render(
        name=one_line(report.name),
        introduction=introduction(report),
        protocols=_protocols(report, drawn),
        remarks=[_remark(report, remark) for remark in report.remarks],
        groups=run_groups(report),
        packed=packed(report.runs),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
    )


def _breakable(text: str) -> Markup:
    """It may be broken behind each `_`."""
    return Markup("_<wbr>").join(text.split("_"))


def introduction(report: Report) -> list[str]:
    """What was run, and with which versions, a sentence each."""
    results = [run.result for run in report.runs]
    methods = {row.label for section in report.sections for row in section.rows}
    seeds, backbones = {result["seed"] for result in results}, sorted({str(result["backbone"]) for result in results})
    counted = [_counted(len(results), "run"), "of", _counted(len(methods), "method")]
    counted += ["with", _counted(len(seeds), "seed"), "in", _counted(len(report.sections), "protocol")]
    versions = _versions([result.get("environment") for result in results])
    told = [f"{' '.join(counted)}; backbone {', '.join(backbones)}.", f"Computed with {versions}." if versions else ""]
    return [one_line(sentence) for sentence in told if sentence]


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def _versions(environments: Sequence[Any]) -> str:
    """`promptvision 0.1.0, Python 3.11.7 and 3.12.1 ...`, each version that some run names."""
    found: dict[str, dict[str, None]] = {}
    for environment in environments:
        for key in VERSIONS if isinstance(environment, Mapping) else ():
            if environment.get(key):
                found.setdefault(key, {})[str(environment[key])[:40]] = None
    return ", ".join(f"{VERSIONS[key]} {' and '.join(found[key])}" for key in VERSIONS if key in found)


def _remark(report: Report, remark: str) -> str:
    """Files are named from the report's folder on."""
    return one_line(remark.replace(f"{report.folder}/", ""))


def _protocols(report: Report, drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """The tables of each section, with what their titles add to its own, and its figures."""
    found = []
    for section in report.sections:
        title = TITLES[section.kind]
        tables = [(_caption(table.title, title), table) for table in report.tables if table.kind == section.kind]
        figures = [_figure(each) for each in drawn if each.drawing.kind == section.kind]
        found.append({"id": section.kind, "title": title, "tables": tables, "figures": figures})
    return found


def _caption(title: str, section: str) -> str:
    rest = title.removeprefix(section).lstrip(":, ")
    return rest[:1].upper() + rest[1:] if rest.startswith("against") else rest


def _figure(drawn: Drawn) -> dict[str, Any]:
    """What an <img> needs; the size lets the page keep its place before it is decoded."""
    svg = drawn.file(".svg").read_bytes()
    width, height = (round(float(points) * 96 / 72) for points in VIEW_BOX.findall(svg)[0])
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    drawing = drawn.drawing
    return {"title": drawing.title, "about": drawing.about, "source": source, "width": width, "height": height}


def _hash(text: str) -> str:
    """What lets this very text run, and no other (CSP level 2)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
