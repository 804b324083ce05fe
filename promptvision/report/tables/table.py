"""A table in memory, which is written for a terminal, in Markdown, LaTeX or CSV, or into a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from promptvision.report.scores import Score

PATH = re.compile(r"""(?<![^\s"'=(\[{,:])(?:/|~/|[A-Za-z]:[\\/])(?:[^\s"'/\\,;:)\]}]+[/\\])+""")
"""The folders of an absolute path at the beginning of a word."""


def without_folders(text: str) -> str:
    """Replace the folders of each absolute path with `…/`: they are private."""
    return PATH.sub("…/", text)


@dataclass(frozen=True)
class Column:
    """`name`, its head; `number`, whether it is aligned right and sorted by value; `score`, whether its entries are
    scores over seeds; `head`, whether it names the row and is repeated where a table is broken; `low`, whether the
    lowest score is the best."""

    name: str
    number: bool = True
    score: bool = False
    head: bool = False
    low: bool = False


@dataclass(frozen=True)
class Entry:
    """`text`, as shown; `value`, the number behind it, by which it is sorted; `mark`: "best" of its column, "tie" with
    the best within noise, "partial" average, "level" that needs no training, "within" or "outside" the interval, or
    "unjudged"; `score`, with its deviation and interval."""

    text: str
    value: float | None = None
    mark: str = ""
    score: Score | None = None

    @property
    def about(self) -> str:
        """Return each seed's value and half of the 95 % interval of a score; "" of another entry."""
        if self.score is None or self.score.mean is None:
            return ""
        seeds = [f"seed {seed}: {value:.2f}" for seed, value in sorted(self.score.values.items())]
        noise = self.score.noise
        return "; ".join([*seeds, *([] if noise is None else [f"95 % interval: ± {noise:.2f}"])])


@dataclass
class Table:
    """Rows of entries under columns, with numbered notes below; `kind` is that of its section."""

    title: str
    columns: Sequence[Column]
    rows: list[Sequence[Entry]]
    about: str = ""
    notes: list[str] = field(default_factory=list)
    kind: str = ""

    def note(self, sentence: str) -> str:
        """Return `[n]`, the number of this note; the same sentence has the same number."""
        if sentence not in self.notes:
            self.notes.append(sentence)
        return f"[{self.notes.index(sentence) + 1}]"

    def finish(self, best: bool) -> None:
        """Remove columns without text, except those that name the rows, and mark the best mean of each score column.

        `best`: whether to mark. Averages that lack datasets do not take part.
        """
        kept = [n for n, column in enumerate(self.columns) if column.head or any(row[n].text for row in self.rows)]
        self.columns = [self.columns[n] for n in kept]
        self.rows[:] = [[row[n] for n in kept] for row in self.rows]
        for place, column in enumerate(self.columns) if best else ():
            entries = [row[place] for row in self.rows if column.score and not row[place].mark]
            values = [entry.value for entry in entries if entry.value is not None]
            top = (min(values) if column.low else max(values)) if len(values) > 1 else None
            for number, row in enumerate(self.rows) if top is not None else ():
                if row[place].value == top and not row[place].mark:
                    self.rows[number] = [*row[:place], replace(row[place], mark="best"), *row[place + 1 :]]

    def mark_ties(self) -> None:
        """Mark the scores that tie with the best of their column (scipy, a second that a terminal need not spend)."""
        for place in range(len(self.columns)):
            best = [row[place].score for row in self.rows if row[place].mark == "best"]
            for number, row in enumerate(self.rows):
                score = row[place].score
                if score and not row[place].mark and any(score.ties(each) for each in best if each):
                    self.rows[number] = [*row[:place], replace(row[place], mark="tie"), *row[place + 1 :]]


def score_entry(score: Score | None) -> Entry:
    """Return the entry of a score, empty if there is none."""
    if score is None:
        return Entry("")
    return Entry(str(score), score.mean, "partial" if score.missing else "", score)


def number_entry(value: float | None, text: str) -> Entry:
    """Return the entry of a number in the format `text`, empty if it is unknown."""
    return Entry("") if value is None else Entry(text.format(value), value)
