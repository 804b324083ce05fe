"""A comparison of our numbers with those of a CSV file of your own: another paper's, a colleague's, or earlier ones.

Columns `method` (as our tables call it), `dataset` (a dataset or an average of our tables) and `value` (%); `shots`,
`split` (base, new or H; the measure of a stream) and `source` where they are needed. Settings are not compared.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from promptvision.errors import InputError, unknown
from promptvision.report.kinds import TITLES
from promptvision.report.literature.compare import COLUMNS, entries, verdict
from promptvision.report.literature.counterparts import Ours, published_names
from promptvision.report.sections import Section
from promptvision.report.tables.table import Table

ABOUT = (
    "Ours: mean ± sample deviation over seeds. 95 %: half of the interval of our mean (Student's t). Within: the "
    "difference is at most that, plus the rounding of the other number."
)
NEEDED = ("method", "dataset", "value")
COLUMN_NAMES = (*NEEDED, "shots", "split", "source")


def read_reference(path: Path) -> list[dict[str, str]]:
    """Read the rows of a reference. InputError names the column or the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--reference {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    found = csv.DictReader(text.splitlines(), restval="")
    header = list(found.fieldnames or ())
    for name in header:
        if name not in COLUMN_NAMES:
            raise unknown(f"column of {path}", name, COLUMN_NAMES)
    if missing := [name for name in NEEDED if name not in header]:
        raise InputError(f"--reference {path} has no column {', '.join(missing)}")
    rows = []
    for row in found:
        if None in row:
            raise InputError(f"--reference {path}, line {found.line_num} has more cells than the header")
        if not _is_number(row["value"]):
            raise InputError(f"--reference {path}, line {found.line_num}: value {row['value']!r} is no number")
        rows.append({name: (row.get(name) or "").strip() for name in COLUMN_NAMES})
    return rows


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def compare_with(
    name: str, reference: Sequence[Mapping[str, str]], sections: Sequence[Section]
) -> tuple[list[Table], list[str]]:
    """Return a table for each section with numbers of the reference, and a sentence on its rows without a number here.

    `name`: of the reference's file.
    """
    tables, matched, known = [], set[int](), set[str]()
    for section in sections:
        made = Table(f"{TITLES[section.kind]}, against {name}", COLUMNS, [], ABOUT, kind=section.kind)
        for ours in all_numbers(section):
            known.add(ours.label)
            for number, row in enumerate(reference):
                if is_of(row, ours, section.kind):
                    matched.add(number)
                    judged = verdict(ours.score, {**row, "confidence": ""}, False)
                    made.rows.append(entries(ours, {**row, "paper": row["source"], "confidence": ""}, judged, []))
        tables += [made] if made.rows else []
    lost = [row for number, row in enumerate(reference) if number not in matched]
    if not lost:
        return tables, []
    some = ", ".join(f"{row['method']} on {row['dataset']}" for row in lost[:3]) + (" ..." if len(lost) > 3 else "")
    here = f"The methods here are: {', '.join(sorted(known)[:8])}."
    return tables, [f"{len(lost)} of {len(reference)} rows of {name} have no number here: {some}. {here}"]


def all_numbers(section: Section) -> Iterator[Ours]:
    """Yield the numbers of a section, each under the name of its dataset or average in our tables."""
    for row in section.rows:
        for column, score in row.scores.items():
            where, split, metrics = published_names(section.kind, row, column)
            if not score.missing and row.cells:
                yield Ours(
                    row.label, row.cells, where, column if section.kind == "continual" else split, metrics, score
                )


def is_of(row: Mapping[str, str], ours: Ours, kind: str) -> bool:
    """Return whether a row is of this number; one without shots or split is of every number that has no choice."""
    splits = (ours.split,) if kind in ("base_to_new", "continual") else (ours.split, "")
    shots = {"", *(str(cell.shots or "all") for cell in ours.cells)}
    counted = row["shots"] in shots or any(cell.blind for cell in ours.cells)
    same = row["method"].casefold() == ours.label.casefold() and row["dataset"] == ours.where
    return same and row["split"] in splits and counted
