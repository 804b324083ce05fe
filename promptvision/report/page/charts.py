"""Charts of a run's page as marks of an SVG: the confusion matrix and the calibration curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptvision.errors import counted
from promptvision.report.diagnosis import Bin

MOST_CLASSES = 100
"""Classes that a confusion matrix shows; of more, the FEWER with the most mistakes."""
FEWER = 60
MOST_CELLS = 3000
"""Cells that are drawn; the others, with the fewest images, are white."""
LONGEST = 18
"""Characters of a class name beside the matrix."""


@dataclass(frozen=True)
class Mark:
    """A rectangle: its place and size, its kind (a class of the style), opacity, number inside, and what a pointer
    shows."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    opacity: float
    text: str
    about: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: the shown names, short, the size of a cell and of the text, the margins, and the cells."""

    names: Sequence[str]
    cell: int
    font: int
    margin: int
    marks: Sequence[Mark]
    about: str

    @property
    def side(self) -> int:
        """Return the length of a side of the drawing."""
        return self.margin + self.cell * len(self.names) + 4


def confusion_matrix(found: Mapping[tuple[int, int], int], classes: Sequence[str]) -> Matrix:
    """Return the matrix of {(label, prediction): images}: a row per label, shaded by the share of its images."""
    images, wrong = Counter[int](), Counter[int]()
    for (label, prediction), count in found.items():
        images[label] += count
        for number in {label, prediction} if label != prediction else ():
            wrong[number] += count
    several = range(len(classes))
    kept = list(several) if len(classes) <= MOST_CLASSES else sorted(sorted(several, key=lambda n: -wrong[n])[:FEWER])
    place = {number: position for position, number in enumerate(kept)}
    cell = next(size for most, size in ((12, 34), (30, 22), (60, 14), (MOST_CLASSES, 11)) if len(kept) <= most)
    font = min(12, cell - 2)
    names = [short(classes[number]) for number in kept]
    margin = 8 + round(0.62 * font * max(map(len, names)))
    shown = {pair: count for pair, count in found.items() if pair[0] in place and pair[1] in place}
    marks = []
    for (label, prediction), count in sorted(shown.items(), key=lambda each: -each[1])[:MOST_CELLS]:
        said = f"{classes[label]} → {classes[prediction]}: {count} of {counted(images[label], 'image')}"
        kind, text = "hit" if label == prediction else "miss", str(count) if cell >= 22 and count < 1000 else ""
        x, y = (margin + cell * place[number] for number in (prediction, label))
        marks.append(Mark(x, y, cell - 1, cell - 1, kind, round(0.12 + 0.58 * count / images[label], 2), text, said))
    about = "A row per true class, a column per predicted class; the colour is the share of the row's images."
    if len(kept) < len(classes):
        about += f" Shown are the {FEWER} with the most mistakes of {counted(len(classes), 'class')}."
    return Matrix(names, cell, font, margin, marks, about)


def short(name: str) -> str:
    """Return the beginning of a long name."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def calibration_marks(bins: Sequence[Bin], side: int = 300) -> list[Mark]:
    """Return for each bin a bar as high as its accuracy and a line at its mean confidence, on a square of `side`."""
    marks = []
    for each in bins:
        x, width = side * each.low, side * (each.high - each.low) - 2
        said = f"{counted(each.count, 'image')}: confidence {each.confidence:.1%}, accuracy {each.accuracy:.1%}"
        marks.append(Mark(x, side * (1 - each.accuracy), width, side * each.accuracy, "hit", 0.6, "", said))
        marks.append(Mark(x, side * (1 - each.confidence) - 1, width, 2, "miss", 1.0, "", said))
    return marks
