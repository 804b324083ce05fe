"""The files of an explanation: figures as PNG and SVG, words as CSV, and one HTML page that needs no network."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from promptvision.atomic import write_atomically
from promptvision.deploy.explain.parts import Part
from promptvision.errors import InputError, without_formula
from promptvision.report.figures.style import Drawing, save
from promptvision.report.page.template import render

PAGE = "explain.html"


def check_output(folder: str | Path) -> None:
    """Raise InputError for a folder of files that no explanation wrote: their names may be the same."""
    place = Path(folder)
    if place.exists() and not (place / PAGE).exists() and (place.is_file() or any(place.iterdir())):
        raise InputError(f"{place} holds files that no explanation wrote: choose another --output")


def write_explanation(name: str, lead: str, parts: Sequence[Part], folder: str | Path) -> Path:
    """Write the figures, the words and the page of an explanation into `folder`; return the page."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    shown = [(part, [figure(drawing, place) for drawing in part.drawings]) for part in parts]
    words = words_csv(parts)
    if words:
        write_atomically(place / "words.csv", words.encode())
    html = render(PAGE, name=name, lead=lead, parts=shown)
    write_atomically(place / PAGE, html.encode("utf-8", errors="replace"))
    return place / PAGE


def figure(drawing: Drawing, folder: Path) -> dict[str, Any]:
    """Write a figure; return the source of an <img>, and its size, so that the page keeps its place."""
    png, _ = save(drawing.make(), folder / drawing.title.replace(" ", "_"))
    with Image.open(png) as image:
        width, height = (round(side * 96 / 150) for side in image.size)
    source = f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"
    return {"about": drawing.about, "source": source, "width": width, "height": height}


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
