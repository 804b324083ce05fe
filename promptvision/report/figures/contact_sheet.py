"""A sheet of images with their labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INCHES = 1.5
"""Of one image; its label takes a third of that."""


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], path: str | Path, title: str = "") -> None:
    """Write a PNG: a cell per class, (name, its images side by side), cells in as many columns as fit a screen."""
    across = max(1, max((len(images) for _, images in rows), default=1))
    columns = max(1, min(len(rows), 12 // across))
    lines = -(-len(rows) // columns)
    height = lines * INCHES * 4 / 3
    figure = Figure((max(4.0, columns * across * INCHES), height + 0.5), dpi=100)
    FigureCanvasAgg(figure)
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.5, height)).flat
    head.text(0.5, 0.5, _plain(title), fontsize=12, ha="center", va="center")
    cells = body.subfigures(lines, columns, squeeze=False)
    for cell, (name, images) in zip(cells.flat, rows, strict=False):
        _draw(cell, name, images, across)
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw(cell, name: str, images: Sequence[Image.Image], across: int) -> None:  # type: ignore[no-untyped-def]
    cell.text(0.5, 0.79, _plain("\n".join(textwrap.wrap(name, 14 * across)[:2])), fontsize=9, ha="center", va="bottom")
    for place, axes in enumerate(cell.subplots(1, across, squeeze=False).flat):
        axes.axis("off")
        if place < len(images):
            axes.imshow(images[place])
    cell.subplots_adjust(0.03, 0.02, 0.97, 0.77, wspace=0.06)


def _plain(text: str) -> str:
    """`$` starts a formula in matplotlib."""
    return text.replace("$", r"\$")
