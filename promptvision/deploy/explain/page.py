"""The files of an explanation: figures as PNG and SVG, words as CSV, and one HTML page that needs no network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from promptvision.atomic import write_atomically
from promptvision.deploy.explain.parts import Part
from promptvision.errors import one_line, without_formula
from promptvision.report.figures.style import Drawing, save
from promptvision.report.page.html import FILES

STYLE = """
.photo { overflow-x: auto; }
.photo img { display: block; max-width: calc(min(90rem, 100vw) - 7.5vw); height: auto; background: #fff; }
@media (max-width: 40rem) { .photo img { max-width: none; zoom: .68; } }
"""
"""Photographs keep their colours in the dark, unlike the figures of a report."""


def write_explanation(name: str, lead: str, parts: Sequence[Part], folder: str | Path) -> Path:
    """Write the figures, the words and the page of an explanation into `folder`; return the page."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    shown = [
        {"title": part.title, "sentences": part.sentences, "words": part.words, "drawings": figures(part, place)}
        for part in parts
    ]
    words = words_csv(parts)
    if words:
        write_atomically(place / "words.csv", words.encode())
    write_atomically(place / "explain.html", page(name, lead, shown).encode("utf-8", errors="replace"))
    return place / "explain.html"


def figures(part: Part, folder: Path) -> list[dict[str, Any]]:
    """Write the figures of a part as PNG and SVG; return the source and the size of an <img> of each."""
    return [figure(drawing, folder) for drawing in part.drawings]


def figure(drawing: Drawing, folder: Path) -> dict[str, Any]:
    """Write a figure; return the source of an <img>, and its size, so that the page keeps its place."""
    png, _ = save(drawing.make(), folder / drawing.title.replace(" ", "_"))
    with Image.open(png) as image:
        width, height = (round(side * 96 / 150) for side in image.size)
    source = f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"
    return {"about": drawing.about, "source": source, "width": width, "height": height}


def page(name: str, lead: str, parts: Sequence[dict[str, Any]]) -> str:
    """Return the page's HTML: names are text, and its policy allows no script and no address."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.finalize = lambda value: one_line(value) if type(value) is str else value
    style = (FILES / "style.css").read_text(encoding="utf-8") + STYLE
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        name=name,
        lead=lead,
        parts=parts,
        style=Markup(style),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{allowed}'",
    )


def words_csv(parts: Sequence[Part]) -> str:
    """Return the nearest words as CSV, a row each; "" without any."""
    tables = [table for part in parts for table in part.words]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt", "vector", "rank", "word", "distance"])
    for table in tables:
        for vector, row in enumerate(table.rows, 1):
            for rank, (word, distance) in enumerate(row, 1):
                writer.writerow([without_formula(table.title), vector, rank, without_formula(word), f"{distance:.4f}"])
    return text.getvalue() if tables else ""
