"""A table, before it is a terminal's, Markdown, LaTeX, CSV or a page's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from promptvision.report.scores import Score

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
"""Characters that would break a line, move a cursor, turn the direction of what follows, or are none at all."""

PATH = re.compile(r"""(?<![^\s"'=(\[{,:])(?:/|~/|[A-Za-z]:[\\/])(?:[^\s"'/\\,;:)\]}]+[/\\])+""")
"""The folders of an absolute path, where a word begins."""


def one_line(text: str) -> str:
    """On one line, with nothing in it that a terminal would obey."""
    return CONTROL.sub(" ", text)


def without_folders(text: str) -> str:
    """The text with `…/` in place of the folders of each absolute path: they are somebody's own."""
    return PATH.sub("…/", text)


@dataclass(frozen=True)
class Column:
    """`name`, its head; `number`, whether it is aligned right and sorted by value; `score`, whether it has an
    interval; `head`, whether it names the row and is repeated where a table is broken; `low`, whether the lowest is
    the best."""

    name: str
    number: bool = True
    score: bool = False
    head: bool = False
    low: bool = False


@dataclass(frozen=True)
class Entry:
    """`text`, what is shown; `value`, the number behind it, by which it is sorted; `half`, of its interval; `mark`,
    "best" of its column, "partial" average, "level" that needs no training, "within" or "outside" the noise, or
    "unjudged"."""

    text: str
    value: float | None = None
    half: float | None = None
    mark: str = ""


@dataclass
class Table:
    """Rows of entries under columns, with numbered notes below; `kind`, of the section that it belongs to."""

    title: str
    columns: Sequence[Column]
    rows: list[Sequence[Entry]]
    about: str = ""
    notes: list[str] = field(default_factory=list)
    kind: str = ""

    def note(self, sentence: str) -> str:
        """`[n]`, the number of this note; the same sentence has the same number."""
        if sentence not in self.notes:
            self.notes.append(sentence)
        return f"[{self.notes.index(sentence) + 1}]"


def score_entry(score: Score | None) -> Entry:
    """What a table shows of a score; nothing where there is none."""
    if score is None:
        return Entry("")
    return Entry(str(score), score.mean, score.half, "partial" if score.missing else "")


def number_entry(value: float | None, text: str) -> Entry:
    """`text` for a number that is known."""
    return Entry("") if value is None else Entry(text.format(value), value)


def mark_best(table: Table) -> None:
    """Mark the best mean of each score column, if there is more than one to choose from; averages that lack data
    sets are not among them."""
    for place, column in enumerate(table.columns):
        entries = [row[place] for row in table.rows if column.score and not row[place].mark]
        values = [entry.value for entry in entries if entry.value is not None]
        if len(values) > 1:
            best = min(values) if column.low else max(values)
            table.rows[:] = [_marked(row, place, best) for row in table.rows]


def without_empty_columns(table: Table) -> None:
    """Leave out what no row knows."""
    kept = [n for n, column in enumerate(table.columns) if column.head or any(row[n].text for row in table.rows)]
    table.columns = [table.columns[n] for n in kept]
    table.rows[:] = [[row[n] for n in kept] for row in table.rows]


def _marked(row: Sequence[Entry], place: int, best: float) -> Sequence[Entry]:
    entry = row[place]
    if entry.value != best or entry.mark:
        return row
    return [*row[:place], Entry(entry.text, entry.value, entry.half, "best"), *row[place + 1 :]]
