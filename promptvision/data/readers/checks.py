"""Checks of lists of images: labels, paths inside the root, files present."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from promptvision.data.card import ACCEPTED, Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.layout import list_folder, missing
from promptvision.data.readers.paths import Finder, exists
from promptvision.data.readers.search import LeftOut, chosen
from promptvision.errors import InputError, counted

LOG = logging.getLogger(__name__)


class Faults:
    """A guard around each entry that a reader parses: `with faults:` lets its InputError through, which ends a run.

    With `gather`, for `tools/data.py check`, it keeps the sentence in `found`, and the reader leaves the entry out.
    Notes, such as files that are left out, are warnings of a run, and with `gather` kept in `notes`.
    """

    def __init__(self, *, gather: bool = False):
        self.gather = gather
        self.found: list[str] = []
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        """Warn of something worth knowing that does not end a run."""
        if self.gather:
            self.notes.append(sentence)
        else:
            LOG.warning("%s", sentence)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        kept = self.gather and isinstance(error, InputError)
        if kept:
            self.found.append(str(error))
        return kept


class Pairs(dict[str, Any]):
    """A JSON object that also keeps its keys and values as written: a key may occur twice."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


def check_label(place: str, label: int, classes: int | None) -> None:
    """Raise InputError for a label below 0 or beyond the number of classes."""
    if label < 0 or (classes is not None and label >= classes):
        known = "" if classes is None else f", the dataset has {counted(classes, 'class')}"
        raise InputError(f"{place}: label {label} is out of range{known}")


def check_labels(source: str, items: Iterable[Item]) -> None:
    """Raise InputError for a label with two names, and for labels that are not 0 to n - 1."""
    names: dict[int, str] = {}
    for path, label, name in items:
        if names.setdefault(label, name) != name:
            raise InputError(f"{source}: label {label} is {names[label]!r} and, at {path}, {name!r}")
    absent = next((label for label in range(len(names)) if label not in names), None)
    if absent is not None:
        raise InputError(f"{source}: labels must be 0 to n - 1 without gaps, but {absent} never occurs")


def check_once(card: Card, source: str, lists: Mapping[str, Sequence[Item]], faults: Faults) -> None:
    """Raise InputError for an image under two labels or in two splits, or note it if the card accepts this fault.

    Validation images that are exactly the test images are left to the protocol; they are noted.
    """
    if lists.get("val") and {*lists["val"]} == {*lists.get("test", [])}:
        faults.note(f"{source}: the validation images are the test images")
        lists = {split: items for split, items in lists.items() if split != "val"}
    found: dict[str, list[str]] = {fault: [] for fault in ACCEPTED}
    first: dict[str, tuple[int, str, str]] = {}
    for split, items in lists.items():
        for path, label, name in items:
            earlier = first.setdefault(path, (label, name, split))
            if earlier[0] != label:
                found["two_labels"].append(f"lists {path!r} as {earlier[1]!r} and as {name!r}")
            elif earlier[2] != split:
                found["two_splits"].append(f"lists {path!r} in {earlier[2]} and in {split}")
    for fault, sentences in found.items():
        with faults:
            count = (
                f"{source} {sentences[0]}, {counted(len(sentences), 'image')} {ACCEPTED[fault]}" if sentences else ""
            )
            if count and fault in card.accepts:
                faults.note(f"{count}, as its card says")
            elif count:
                raise InputError(f"{count}; if this is how it was published, give a card `accepts: [{fault}]`")


def missing_images(card: Card, source: object, base: Path, absent: Sequence[str], listed: int) -> InputError:
    """Return the error for listed images that do not exist, with a file that differs from the first only in case."""
    near = Finder(base).nearly(absent[0])
    hint = f" (there is {near!r}, in other upper and lower case)" if near else ""
    share = f"{len(absent)} of the {counted(listed, 'image')} that {source} lists are missing"
    return missing(card, f"{share}, such as {str(base / absent[0])!r}{hint}")


def listed_images(
    card: Card, files: Sequence[Path], folder: Path, lists: Mapping[str, Sequence[Item]], faults: Faults
) -> Images:
    """Return the images of the list `files`, with paths below `folder`, after checks of labels and missing files."""
    source = " and ".join(map(str, files))
    with faults:
        check_labels(source, [item for items in lists.values() for item in items])
    check_once(card, source, lists, faults)
    with faults:
        listed = {path for items in lists.values() for path, _, _ in items}
        absent = sorted(path for path in listed if not exists(folder / path))
        if absent:
            raise missing_images(card, source, folder, absent, len(listed))
    return image_files(folder, lists)


def class_items(
    card: Card, folder: Path, place: Path, classes: Iterable[tuple[str, str]], faults: Faults
) -> list[Item]:
    """Return the images of (folder, class name) pairs in `place`, labelled in this order, with paths below `folder`."""
    items: list[Item] = []
    inner, left_out = place.relative_to(folder).as_posix(), LeftOut()
    for label, (name, words) in enumerate(classes):
        with faults:
            if os.path.isdir(place / name):
                files = chosen(place / name, list_folder(place / name), left_out)
                if not files:
                    raise missing(card, f"the class folder {place / name} holds no images (.jpg, .png ...)")
                items += [(f"{inner}/{name}/{file}", label, words) for file in files]
    for sentence in left_out.sentences(place):
        faults.note(f"{place}: {sentence}")
    return items


def image_files(folder: Path, lists: Mapping[str, Sequence[Item]]) -> Images:
    """Return Images of files below a folder; a split that `lists` lacks is empty."""
    train, val, test = (list(lists.get(split, [])) for split in ("train", "val", "test"))
    return Images(train, val, test, partial(open_image, str(folder)), str(folder))
