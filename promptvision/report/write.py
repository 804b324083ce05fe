"""Figures and page of a report as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from promptvision.errors import InputError
from promptvision.report.report import Report


def write_files(
    report: Report, figures: Path | None, page: Path | None, samples: Mapping[str, Mapping[str, str]] | None = None
) -> list[Path]:
    """Write every figure as .png and .svg into a folder, and the page, each if it is given; return the figures' files.

    `samples`: images of the datasets for the page. Raise InputError if a file cannot be written.
    """
    from promptvision.report.figures.draw import draw_all
    from promptvision.report.figures.style import SUFFIXES  # matplotlib, a second that tables alone need not spend
    from promptvision.report.page.html import write_page

    try:
        with TemporaryDirectory() as here:
            drawn = draw_all(report, figures or here, SUFFIXES if figures else (".svg",))
            if page:
                write_page(report, drawn, page, samples)
    except OSError as error:
        raise InputError(f"{error.filename or page or figures} cannot be written: {error.strerror}") from error
    return [path for each in drawn for path in each.paths] if figures else []
