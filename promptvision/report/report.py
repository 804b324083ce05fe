"""The report of a folder of runs: its sections, tables and remarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptvision.report.cells import cells
from promptvision.report.collect import Run, collect
from promptvision.report.kinds import unshown
from promptvision.report.literature.compare import compare, without_counterpart
from promptvision.report.literature.reference import compare_with, read_reference
from promptvision.report.sections import Section, sections
from promptvision.report.tables.build import table
from promptvision.report.tables.table import Table


@dataclass(frozen=True)
class Report:
    """`folder` and its name, its runs, their sections, all tables, and remarks for the reader."""

    folder: Path
    name: str
    runs: Sequence[Run]
    sections: Sequence[Section]
    tables: Sequence[Table]
    remarks: Sequence[str]


def load_report(folder: str | Path, *, literature: bool = True, reference: Path | None = None) -> Report:
    """Read the runs below `folder`, and compare them with published numbers if `literature` is set, and with those of
    the CSV file `reference`."""
    rows = read_reference(reference) if reference else []
    runs, problems = collect(folder)
    found, repeated = cells(runs)
    made = sections(found)
    tables = [table(section) for section in made]
    remarks = [*problems, *repeated]
    searched = sum(run.result.get("split", "test") != "test" for run in runs)
    if searched:
        remarks.append(f"Runs that were not tested on test images, as in a search, are in no table: {searched}.")
    if tests := [name for cell in found if cell.first.get("split", "test") == "test" for name in unshown(cell)]:
        some = ", ".join(tests[:3]) + (" ..." if len(tests) > 3 else "")
        remarks.append(f"Evaluations that are in no table, such as those on some of a run's own classes: {some}")
    if literature:
        tables += [compared for section in made if (compared := compare(section))]
        remarks += without_counterpart(made)
    if reference:
        compared_with, without_number = compare_with(reference.name, rows, made)
        tables += compared_with
        remarks += without_number
    return Report(Path(folder), Path(folder).resolve().name, runs, made, tables, remarks)
