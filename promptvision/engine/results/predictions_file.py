"""Predictions beside a result: for each tested image its label, its prediction and the most probable classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptvision.atomic import read_bytes, refuse_damaged, write_atomically
from promptvision.errors import without_formula

if TYPE_CHECKING:
    from torch import Tensor

TOP = 5
"""Classes of an image, the prediction among them."""
COLUMNS = ("path", "label", "prediction", "probability", "label_probability")
AT_ONCE = 4096
"""Images whose probabilities are computed together."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The prediction for one image: `label` and `prediction` are numbers of classes, `probability` is that of the
    prediction, and `top` {class: probability} holds the TOP most probable classes, the prediction first."""

    path: str
    label: int
    prediction: int
    probability: float
    label_probability: float
    top: Mapping[int, float]


def write_predictions(file: Path, paths: Sequence[str], classes: Sequence[str], logits: Tensor, labels: Tensor) -> None:
    """Write a line for each image as CSV, atomically, no cell of which is a formula; InputError if that fails.

    `logits` (N, C) and `labels` (N,) are in the order of `paths`. Columns: COLUMNS, then `class_2`, `probability_2` and
    so on, those of the next classes. Probabilities have six digits.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = range(2, 1 + min(TOP, len(classes)))
    writer.writerow([*COLUMNS, *(name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}"))])
    names = [without_formula(name) for name in classes]
    for path, (label, probability, top) in zip(paths, _most_probable(logits, labels), strict=True):
        first, *others = ((names[number], f"{value:.6g}") for number, value in top)
        more = [cell for pair in others for cell in pair]
        writer.writerow([without_formula(path), names[label], *first, f"{probability:.6g}", *more])
    write_atomically(file, text.getvalue().encode(errors="backslashreplace"))


def _most_probable(logits: Tensor, labels: Tensor) -> Iterator[tuple[int, float, list[tuple[int, float]]]]:
    """Yield label, its probability and [(class, probability) ...] of the TOP classes of each image.

    The first of equal logits is the prediction, as in `scores`.
    """
    for some, wanted in zip(logits.split(AT_ONCE), labels.split(AT_ONCE), strict=True):
        probabilities = some.double().softmax(dim=1)
        of_label = probabilities.gather(1, wanted[:, None]).flatten().tolist()
        best = some.topk(min(TOP, some.shape[1]), dim=1).indices
        values = probabilities.gather(1, best).tolist()
        for label, probability, first, order, known in zip(
            wanted.tolist(), of_label, some.argmax(dim=1).tolist(), best.tolist(), values, strict=True
        ):
            yield label, probability, sorted(zip(order, known, strict=True), key=lambda each: each[0] != first)


def read_predictions(file: Path, classes: Sequence[str]) -> list[Predicted]:
    """Return the predictions in a file for a run with these classes; InputError if it cannot be read or has others."""
    text = read_bytes(file, "predictions").decode(errors="replace")
    number = {without_formula(name): place for place, name in enumerate(classes)}
    with refuse_damaged(f"{file} holds no predictions of this run", "it is damaged, or names other classes"):
        rows = csv.reader(io.StringIO(text))
        if tuple(next(rows, []))[: len(COLUMNS)] != COLUMNS:
            raise ValueError
        return [_predicted(row, number) for row in rows]


def _predicted(row: Sequence[str], number: Mapping[str, int]) -> Predicted:
    """Return the prediction in a row; an error of Python for one that makes no sense."""
    path, label, first, probability, of_label, *more = row
    pairs = zip([first, *more[::2]], [probability, *more[1::2]], strict=True)
    top = {number[name]: float(value) for name, value in pairs}
    if not all(0 <= value <= 1 for value in (float(of_label), *top.values())):
        raise ValueError
    return Predicted(path, number[label], number[first], float(probability), float(of_label), top)
