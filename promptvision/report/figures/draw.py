"""Which figures a report has: of each protocol its methods together, however many they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from promptvision.report.figures.differences import difference_bars, difference_map
from promptvision.report.figures.dots import dot_panels, dots_in_rows
from promptvision.report.figures.few_shot import few_shot_curves, few_shot_ranks
from promptvision.report.figures.matrices import matrix_panels
from promptvision.report.figures.radar import radar
from promptvision.report.figures.style import SUFFIXES, Drawing, save
from promptvision.report.figures.training import training
from promptvision.report.figures.values import datasets, differences, in_words, means, most_shots, values, zero_shot
from promptvision.report.kinds import TITLES
from promptvision.report.report import Report
from promptvision.report.sections import SOURCE, Section
from promptvision.report.tables.over_shots import over_shots, shot_counts

AVERAGES = ("average", "mean", "Natural", "Specialized", "Structured", SOURCE)
ON_WEBS = ("few_shot", "full", "vtab", "fgvc", "cross_dataset", "domain_generalization")
"""Kinds of table whose columns are data sets, so that they can be axes of a web."""
MOST_ON_WEB = 6


@dataclass(frozen=True)
class Drawn:
    """A drawing that is done, and its files."""

    drawing: Drawing
    paths: Sequence[Path]

    def file(self, suffix: str) -> Path:
        """The one of this suffix."""
        return next(path for path in self.paths if path.suffix == suffix)


def draw_all(report: Report, folder: str | Path, suffixes: Sequence[str] = SUFFIXES) -> list[Drawn]:
    """Every figure of a report, in `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    drawn, used = [], set[str]()
    for number, drawing in enumerate(drawings(report), 1):
        name = re.sub(r"[^\w+-]+", "_", drawing.title.lower()).strip("_")[:80]
        name = f"{name}_{number}" if name in used else name
        used.add(name)
        drawn.append(Drawn(drawing, save(drawing.make(), Path(folder) / name, suffixes)))
    return drawn


def drawings(report: Report) -> Iterator[Drawing]:
    """What there is to draw of each protocol: its numbers, how far they are from zero-shot, how the training went."""
    for section in report.sections:
        shots = section.kind == "few_shot" and len(shot_counts(section)) > 1
        if section.kind == "base_to_new":
            yield from _base_to_new(section)
        else:
            yield from few_shot_ranks(section) if shots else _panels(section)
        yield from _against_zero_shot(section)
        yield from few_shot_curves(section) if shots else ()
        yield from _webs(section)
        if section.kind == "continual":
            yield from _matrices(section)
        yield from training(section)


def _title(section: Section, dataset: str, rest: str = "") -> str:
    return ", ".join(filter(None, [TITLES[section.kind], dataset, rest]))


def _base_to_new(section: Section) -> Iterator[Drawing]:
    """Base, new and H of every method, for each data set and the average, the highest H on top."""
    for dataset in datasets(section):
        found = values(most_shots(section, dataset), section.columns)
        level, columns = zero_shot(section), [name for name in ("base", "new", "H") if name in section.columns]
        if any(len(scores) > 1 for scores in found.values()):
            about = f"Accuracy on base and new classes and H of {len(found)} methods. {in_words(found, 'H', level)}"
            draw = partial(dots_in_rows, found, columns, level=means(found.get(level, {})), ordered=False)
            title = _title(section, dataset)
            yield Drawing(section.kind, title, about, partial(draw, title=title))


def _panels(section: Section) -> Iterator[Drawing]:
    """Every column's scores side by side, in the order of the average or of the first column."""
    by = next((name for name in ("average", "mean") if name in section.columns), section.columns[0])
    for dataset in datasets(section):
        found = values(most_shots(section, dataset), section.columns)
        columns = [name for name in section.columns if any(name in scores for scores in found.values())]
        if len(found) > 1:
            level, title = zero_shot(section), _title(section, dataset)
            about = f"Scores of {len(found)} methods in {len(columns)} columns. {in_words(found, by, level)}"
            base = means(found.get(level, {}))
            yield Drawing(section.kind, title, about, partial(dot_panels, found, columns, title, base, by))


def _against_zero_shot(section: Section) -> Iterator[Drawing]:
    """All methods minus zero-shot CLIP; by shots where that is what there is, else with the most shots."""
    shown, level = over_shots(section) or section, zero_shot(section)
    for dataset in datasets(shown):
        found = differences(values(most_shots(shown, dataset), shown.columns), level)
        columns = [name for name in shown.columns if any(name in each for each in found.values())]
        title = f"{_title(section, dataset)}: difference to {level}"
        about = f"{len(found)} methods minus {level} in per cent, the largest on top."
        if len(columns) == 1:
            bars = {name: each[columns[0]] for name, each in found.items()}
            yield Drawing(section.kind, title, about, partial(difference_bars, bars, title))
        elif columns:
            yield Drawing(section.kind, title, about, partial(difference_map, found, columns, title))


def _webs(section: Section) -> Iterator[Drawing]:
    """A few methods over three data sets or more that all of them have."""
    for dataset in datasets(section) if section.kind in ON_WEBS else ():
        found = values(most_shots(section, dataset), section.columns)
        axes = [name for name in section.columns if name not in AVERAGES]
        shared = [name for name in axes if all(name in scores for scores in found.values())]
        if len(shared) > 2 and len(found) <= MOST_ON_WEB:
            lines = {name: [means(scores)[column] for column in shared] for name, scores in found.items()}
            title = _title(section, dataset, "all data sets")
            about = f"Accuracy of {len(lines)} methods on a web of {len(shared)} axes: {', '.join(shared)}."
            yield Drawing(section.kind, title, about, partial(radar, lines, shared, title))


def _matrices(section: Section) -> Iterator[Drawing]:
    """The accuracy matrix of each stream, those over one data set together."""
    for dataset in datasets(section):
        streams = {row.label: row.cells[0].results for row in section.rows if row.dataset == dataset}
        title = f"Accuracy matrices, {dataset}"
        about = f"Accuracy on each task after each task of {len(streams)} methods, mean over seeds."
        yield Drawing(section.kind, title, about, partial(matrix_panels, streams, title))
