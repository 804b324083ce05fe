"""Which figures a report has, drawn as .png and .svg."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from promptvision.report.bars import difference_bars, grouped_bars, loss_curves, plain, radar, wrapped
from promptvision.report.curves import few_shot_curve
from promptvision.report.kinds import TITLES
from promptvision.report.losses import losses
from promptvision.report.report import Report
from promptvision.report.runs import Run
from promptvision.report.sections import SOURCE, Row, Section
from promptvision.report.seeds import Score
from promptvision.report.streams import draw_matrix

OVER_DATASETS = ("few_shot", "full", "vtab", "fgvc")
"""Kinds of table whose columns are data sets, so that they can be axes of a web."""


@dataclass(frozen=True)
class Drawing:
    """`draw` writes `path`.png and `path`.svg."""

    title: str
    draw: Callable[[Path], object]


@dataclass(frozen=True)
class Drawn:
    """A drawing that is done."""

    title: str
    png: Path
    svg: Path


def draw_all(report: Report, folder: str | Path) -> list[Drawn]:
    """Every figure of a report, in `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    drawn, used = [], set[str]()
    for number, drawing in enumerate(drawings(report), 1):
        name = re.sub(r"[^\w+-]+", "_", drawing.title.lower()).strip("_")[:80]
        name = f"{name}_{number}" if name in used else name
        used.add(name)
        path = Path(folder) / name
        drawing.draw(path)
        drawn.append(Drawn(drawing.title, Path(f"{path}.png"), Path(f"{path}.svg")))
    return drawn


def drawings(report: Report) -> Iterator[Drawing]:
    """What there is to draw: for each protocol what its papers draw, then how the training went."""
    for section in report.sections:
        if section.kind == "few_shot":
            yield from _few_shot(section)
        if section.kind == "base_to_new":
            yield from _base_to_new(section)
        yield from _against_zero_shot(section)
        yield from _radar(section)
        if section.kind == "continual":
            yield from _matrices(section)
    for section in report.sections:
        yield from _training(section)


def _few_shot(section: Section) -> Iterator[Drawing]:
    """Accuracy over shots for each data set and the average, where some method has several numbers of shots."""
    for column in section.columns:
        curves: dict[str, dict[int, list[float]]] = defaultdict(dict)
        levels: dict[str, float] = {}
        for row in section.rows:
            score, shots = row.scores.get(column), row.cells[0].shots
            if score and _whole(score):
                if shots:
                    curves[wrapped(row.label)][shots] = list(score.values.values()) or [score.mean or 0.0]
                else:
                    levels[wrapped(row.label)] = score.mean or 0.0
        if any(len(points) > 1 for points in curves.values()):
            title = f"Few-shot, {column}"
            yield Drawing(title, partial(_draw_few_shot, dict(curves), levels, plain(title)))


def _draw_few_shot(curves: dict[str, dict[int, list[float]]], levels: dict[str, float], title: str, path: Path) -> None:
    few_shot_curve(curves, levels, title, path)


def _base_to_new(section: Section) -> Iterator[Drawing]:
    """Base, new and H of every method, for each data set and the average."""
    by_dataset: dict[str, dict[str, dict[str, tuple[float, float]]]] = defaultdict(dict)
    for row in section.rows:
        bars = {name: _bar(score) for name, score in row.scores.items() if _whole(score)}
        if len(bars) > 1:
            by_dataset[row.dataset][row.label] = bars
    for dataset, values in by_dataset.items():
        title = f"Base to new, {dataset}"
        yield Drawing(title, partial(grouped_bars, values, title))


def _bar(score: Score) -> tuple[float, float]:
    return score.mean or 0.0, score.half or 0.0


def _against_zero_shot(section: Section) -> Iterator[Drawing]:
    """Each method minus zero-shot CLIP, per data set; with the most shots there are."""
    for level in (row for row in section.rows if row.cells and row.cells[0].first["method"] == "zero_shot"):
        peers = [row for row in _most_shots(section) if row.dataset == level.dataset and row is not level]
        for row in peers if section.kind != "base_to_new" else ():
            shared = [name for name in section.columns if name in row.scores and name in level.scores]
            found = {name: _difference(row.scores[name], level.scores[name]) for name in shared}
            values = {name: value for name, value in found.items() if value is not None}
            if values:
                where = f", {row.dataset}" if row.dataset else ""
                title = f"{TITLES[section.kind]}{where}: {_named(row)} minus {level.label}"
                yield Drawing(title, partial(difference_bars, values, title))


def _difference(ours: Score, level: Score) -> float | None:
    return (ours.mean or 0.0) - (level.mean or 0.0) if _whole(ours) and _whole(level) else None


def _whole(score: Score) -> bool:
    """Whether it may stand beside others: a mean that lacks no data set."""
    return score.mean is not None and not score.missing


def _most_shots(section: Section) -> list[Row]:
    """Of the rows of each method on each data set the one with the most shots."""
    best: dict[tuple[str, str], Row] = {}
    for row in (row for row in section.rows if row.cells):
        other = best.setdefault((row.label, row.dataset), row)
        if row.cells[0].shots > other.cells[0].shots:
            best[row.label, row.dataset] = row
    return list(best.values())


def _named(row: Row) -> str:
    return f"{row.label}, {row.cells[0].shots} shots" if row.cells[0].shots else row.label


def _radar(section: Section) -> Iterator[Drawing]:
    """All methods over three data sets or more, those that every method has."""
    if section.kind not in (*OVER_DATASETS, "cross_dataset", "domain_generalization"):
        return
    for dataset in dict.fromkeys(row.dataset for row in section.rows):
        rows = [row for row in _most_shots(section) if row.dataset == dataset]
        means = [{k: s.mean or 0.0 for k, s in row.scores.items() if _whole(s)} for row in rows]
        averages = {"average", "mean", "Natural", "Specialized", "Structured", SOURCE}
        shared = [name for name in section.columns if name not in averages and all(name in each for each in means)]
        if len(shared) > 2:
            title = TITLES[section.kind] + (f" from {dataset}" if dataset else "")
            lines = {_named(row): [each[name] for name in shared] for row, each in zip(rows, means, strict=True)}
            yield Drawing(f"{title}, all data sets", partial(radar, lines, shared, title))


def _matrices(section: Section) -> Iterator[Drawing]:
    """The accuracy matrix of each stream's first seed."""
    for row in section.rows:
        for cell in row.cells:
            title = f"Accuracy matrix, {row.label}, {cell.dataset}, seed {cell.first['seed']}"
            yield Drawing(title, partial(_draw_matrix, cell.runs[0]))


def _draw_matrix(run: Run, path: Path) -> None:
    tasks = [{"name": plain(task["name"])} for task in run.result["tasks"]]
    for suffix in (".png", ".svg"):
        draw_matrix({**run.result, "tasks": tasks, "method": plain(run.result["method"])}, f"{path}{suffix}")


def _training(section: Section) -> Iterator[Drawing]:
    """The losses of all runs of each row."""
    for row in section.rows:
        runs = [(run, losses(run)) for cell in row.cells for run in cell.runs]
        curves = {_short(run, len(row.cells) > 1): points for run, points in runs if len(points) > 1}
        if curves:
            where = f", {row.dataset}" if row.dataset else ""
            title = f"Training, {TITLES[section.kind]}: {_named(row)}{where}"
            yield Drawing(title, partial(loss_curves, curves, title))


def _short(run: Run, several: bool) -> str:
    """What a run is called among those of its row."""
    return run.name if several else f"seed {run.result['seed']}"
