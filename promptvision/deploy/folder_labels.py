"""Accuracy of predictions of images that are in folders named after classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from promptvision.errors import TOLD, counted, shown
from promptvision.experiment.predict import UNSURE


class FolderLabels:
    """Compares predictions with the names of the folders that the images are in, where these are names of classes.

    Underscores and blanks are the same, unless two classes differ in them alone. A folder in a shard counts as well.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = {**{_spaced(name): name for name in classes}, **{name: name for name in classes}}
        self.images = self.labelled = self.unsure = self.right = 0
        self.mistakes = list[str]()
        """A line for each of the first TOLD mistakes."""

    def add(self, path: str, label: str) -> None:
        """Count the prediction of an image."""
        self.images += 1
        folder = PurePath(path).parent.name
        true = self.classes.get(folder) or self.classes.get(_spaced(folder))
        if true is None:
            return
        self.labelled += 1
        if label == UNSURE:
            self.unsure += 1
        elif label == true:
            self.right += 1
        elif len(self.mistakes) < TOLD:
            self.mistakes.append(f"  {shown(path)}: {shown(label)}")

    def lines(self) -> Iterator[str]:
        """Yield the accuracy and the mistakes; nothing if no image is in such a folder."""
        if not self.labelled:
            return
        sure = self.labelled - self.unsure
        named = f"{self.labelled:,} of {counted(self.images, 'image')} in folders named after classes"
        if self.unsure:
            named += f", {self.unsure:,} of them unsure"
        of = "accuracy of the others" if self.unsure else "accuracy"
        wrong = sure - self.right
        yield named + (f": {of} {100 * self.right / sure:.1f} %" if sure else "") + (", mistakes:" if wrong else "")
        yield from self.mistakes
        if wrong > len(self.mistakes):
            yield f"  and {wrong - len(self.mistakes):,} more"


def _spaced(name: str) -> str:
    return name.replace("_", " ")
