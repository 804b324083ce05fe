"""A check of an installation and its answer: holds, differs, or not here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from promptvision.errors import InputError, lacks_memory, one_line
from promptvision.report.tables.table import Column, Entry, Table

LOG = logging.getLogger(__name__)
HOLDS, DIFFERS, ABSENT = "holds", "differs", "not here"
MARKS = {HOLDS: "within", DIFFERS: "outside", ABSENT: "unjudged"}
COLUMNS = tuple(Column(name, number=False, head=name != "found") for name in ("of", "check", "verdict", "found"))


class Answer(NamedTuple):
    """`verdict`, one of HOLDS, DIFFERS and ABSENT, and what was found, in a sentence."""

    verdict: str
    found: str


@dataclass(frozen=True)
class Check:
    """A question about a part of an installation, and the work that answers it.

    `images`: images that a backbone encodes for it, by which its time is estimated.
    """

    of: str
    question: str
    work: Callable[[], Answer]
    images: int = 0

    def row(self) -> dict[str, str]:
        """Do the work and return {column: text}; an error, expected or not, is a difference, in one sentence."""
        try:
            answer = self.work()
        except InputError as error:
            answer = Answer(DIFFERS, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a foreign machine raises is an answer
            what = "the machine is out of memory" if lacks_memory(error) else f"{type(error).__name__}: {error}"
            answer = Answer(DIFFERS, what)
        found = {"of": self.of, "check": self.question, "verdict": answer.verdict, "found": one_line(answer.found)}
        LOG.info("%s: %s: %s: %s", *found.values())
        return found


def judged(faults: Sequence[str], fine: str) -> Answer:
    """Return that all faults differ, or, without any, that `fine` holds."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Answer(DIFFERS, faults[0] + more) if faults else Answer(HOLDS, fine)


def table(rows: Sequence[dict[str, str]]) -> Table:
    """Return the rows as a table."""
    marks = [{"verdict": MARKS[row["verdict"]]} for row in rows]
    cells = [
        [Entry(text, mark=mark.get(name, "")) for name, text in row.items()]
        for row, mark in zip(rows, marks, strict=True)
    ]
    return Table("Verification", COLUMNS, list(cells))
