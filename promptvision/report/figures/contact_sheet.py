"""Contact sheet: images of a dataset with their labels."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from PIL import Image

from promptvision.atomic import write_atomically
from promptvision.report.figures.style import plain, pyplot

INCHES = 1.5
"""Side of one image; its label takes a third of that."""
FONTS = (
    *("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans JP"),
    *("Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "MS Gothic", "Malgun Gothic", "WenQuanYi Zen Hei"),
    *("IPAGothic", "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
)
"""Fonts for class names in any script: the installed ones, in this order, draw what those before them lack."""


@lru_cache(maxsize=1)
def installed() -> dict[str, frozenset[int]]:
    """Return the installed fonts of `FONTS` -> the characters that they have."""
    names = {font.name for font in font_manager.fontManager.ttflist}
    return {
        name: frozenset(font_manager.get_font(font_manager.findfont(name)).get_charmap())
        for name in FONTS
        if name in names
    }


def drawable(text: str) -> str:
    """Return a text with the characters escaped that no installed font has."""
    known = frozenset[int]().union(*installed().values())
    return "".join(each if ord(each) in known or each.isspace() else ascii(each)[1:-1] for each in text)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], path: str | Path, title: str = "") -> None:
    """Write a PNG with a cell per (class name, its images side by side), cells in as many columns as fit a screen."""
    across = max(1, max((len(images) for _, images in rows), default=1))
    columns = max(1, min(len(rows), 12 // across))
    lines = -(-len(rows) // columns)
    height = lines * INCHES * 4 / 3
    figure = pyplot.figure(figsize=(max(4.0, columns * across * INCHES), height + 0.5), dpi=100)
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.5, height)).flat
    head.text(0.5, 0.5, drawable(plain(title)), fontsize=12, ha="center", va="center", family=list(installed()))
    for cell, (name, images) in zip(body.subfigures(lines, columns, squeeze=False).flat, rows, strict=False):
        label = "\n".join(textwrap.wrap(drawable(plain(name)), 14 * across)[:2])
        cell.text(0.5, 0.79, label, fontsize=9, ha="center", va="bottom", family=list(installed()))
        for number, axes in enumerate(cell.subplots(1, across, squeeze=False).flat):
            axes.axis("off")
            if number < len(images):
                axes.imshow(images[number])
        cell.subplots_adjust(0.03, 0.02, 0.97, 0.77, wspace=0.06)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    pyplot.close(figure)
    write_atomically(path, content.getvalue())
