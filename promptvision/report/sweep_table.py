"""The table of a benchmark, whatever its runs were."""

from __future__ import annotations

from rich.table import Table

from promptvision.report.comparable import Cells
from promptvision.report.kinds import MEASURES
from promptvision.report.tables.terminal import mean_and_deviation, seeds_table
from promptvision.report.transfer import transfer_table


def benchmark_tables(cells: Cells, title: str = "") -> list[Table]:
    """One row per cell, a list of results that differ in their seed: of runs tested in several places, or once, and of
    streams of tasks."""
    streams = {name: runs for name, runs in cells.items() if any("matrix" in run for run in runs)}
    others = {name: runs for name, runs in cells.items() if name not in streams}
    tables = []
    if any("evals" in run for runs in others.values() for run in runs):
        tested = {name: [{"evals": {}, **run} for run in runs] for name, runs in others.items()}
        tables.append(transfer_table(tested, title))
    elif others:
        tables.append(seeds_table(others, title))
    return [*tables, *([streams_table(streams, title)] if streams else [])]


def streams_table(cells: Cells, title: str = "") -> Table:
    """One row per cell: mean and deviation of a stream's measures in per cent."""
    table = Table("method", title=title, title_justify="left")
    known = [key for key in MEASURES if any(run.get(key) is not None for runs in cells.values() for run in runs)]
    for key in known:
        table.add_column(MEASURES[key], justify="right")
    table.add_column("seeds", justify="right")
    for name, runs in cells.items():
        values = ([run[key] for run in runs if run.get(key) is not None] for key in known)
        table.add_row(name, *(mean_and_deviation(each) if each else "-" for each in values), str(len(runs)))
    return table
