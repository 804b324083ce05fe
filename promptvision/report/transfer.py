"""Runs that were tested in several places: on new classes, other data sets, other domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from rich.table import Table

from promptvision.report.comparable import Cells, Result, footnotes, notes
from promptvision.report.tables.terminal import mean_and_deviation


def transfer_table(cells: Cells, title: str = "") -> Table:
    """One row per cell: accuracy in per cent where it was trained ("base" or "source"), then in each of its `evals`,
    {place: result}.

    H: harmonic mean of base and new, of every seed (CoCoOp, arXiv:2203.05557, section 4.1). mean: over the places.
    """
    places = list(dict.fromkeys(place for results in cells.values() for run in results for place in run["evals"]))
    names, caption = footnotes(_notes(cells, places))
    table = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left")
    table.add_column("method", min_width=12)
    rows = {name: [scores(run, places) for run in results] for name, results in cells.items()}
    known = {column for row in rows.values() for found in row for column in found}
    columns = [column for column in ("base", "source", *places, "H", "mean") if column in known]
    for column in (*columns, "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        values = ([found[column] for found in row if column in found] for column in columns)
        table.add_row(names[name], *(mean_and_deviation(each) if each else "-" for each in values), str(len(row)))
    return table


def scores(run: Result, places: Sequence[str]) -> dict[str, float]:
    """Column -> accuracy of one run; what was not tested has none, and leaves out what would be made from it."""
    home = "base" if run["class_subset"] == "base" else "source"
    evals: Mapping[str, Result] = run["evals"]
    found = {place: evals[place]["accuracy"] for place in places if place in evals}
    if home == "base" and "new" in found:
        found["H"] = harmonic_mean(run["accuracy"], found["new"])
    if len(places) > 1 and evals.keys() >= set(places):
        found["mean"] = mean(found[place] for place in places)
    return {home: run["accuracy"], **found}


def harmonic_mean(base: float, new: float) -> float:
    """2 b n / (b + n); 0 where both are."""
    return 2 * base * new / (base + new) if base + new else 0.0


def _notes(cells: Cells, places: Sequence[str]) -> dict[str, list[str]]:
    """The notes on the training, and on the tests in every place."""
    found = notes(cells)
    for place in places:
        tested = {name: [r["evals"][place] for r in results if place in r["evals"]] for name, results in cells.items()}
        for name, sentences in notes(tested).items():
            found[name] += [sentence for sentence in sentences if sentence not in found[name]]
    return found
