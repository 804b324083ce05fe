"""Figures of a report: per protocol one figure for all methods, however many they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptvision.report.figures.differences import against_zero_shot
from promptvision.report.figures.dots import all_columns, base_to_new
from promptvision.report.figures.few_shot import MOST_LINES, curves_of
from promptvision.report.figures.matrices import matrices
from promptvision.report.figures.radar import radars
from promptvision.report.figures.style import SUFFIXES, Drawing, save
from promptvision.report.figures.training import training
from promptvision.report.report import Report
from promptvision.report.tables.over_shots import shot_counts


@dataclass(frozen=True)
class Drawn:
    """A drawing and the files it was written to."""

    drawing: Drawing
    paths: Sequence[Path]

    def file(self, suffix: str) -> Path:
        """Return the file with this suffix."""
        return next(path for path in self.paths if path.suffix == suffix)


def draw_all(report: Report, folder: str | Path, suffixes: Sequence[str] = SUFFIXES) -> list[Drawn]:
    """Write every figure of a report into `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    drawn, used = [], set[str]()
    for number, drawing in enumerate(drawings(report), 1):
        name = re.sub(r"[^\w+-]+", "_", drawing.title.lower()).strip("_")[:80]
        name = f"{name}_{number}" if name in used else name
        used.add(name)
        drawn.append(Drawn(drawing, save(drawing.make(), Path(folder) / name, suffixes)))
    return drawn


def drawings(report: Report) -> Iterator[Drawing]:
    """Yield the drawings of each protocol: its scores, their differences from zero-shot CLIP, its training."""
    for section in report.sections:
        several_shots = section.kind == "few_shot" and len(shot_counts(section)) > 1
        curves = list(curves_of(section)) if several_shots else []
        many = [each for each in curves if len(each.scores) > MOST_LINES]
        if section.kind == "base_to_new":
            yield from base_to_new(section)
        else:
            yield from (each.ranks() for each in many) if several_shots else all_columns(section)
        yield from against_zero_shot(section)
        yield from (each.panels() if each in many else each.lines() for each in curves)
        yield from radars(section)
        yield from matrices(section) if section.kind == "continual" else ()
        yield from training(section)
