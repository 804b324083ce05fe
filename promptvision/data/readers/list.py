"""Your own images by a list: CSV, JSON or JSON lines with path, label or class name, and perhaps the split."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images
from promptvision.data.readers.checks import Faults, missing_images
from promptvision.data.readers.default_split import split_rows
from promptvision.data.readers.layout import data_root, folders_in, missing, names_in
from promptvision.data.readers.list_rows import READ, Row, read_rows
from promptvision.data.readers.names import read_names, whole_numbers
from promptvision.data.readers.paths import Finder, listed_path
from promptvision.data.readers.words import SPLIT_OF, split_word
from promptvision.errors import InputError, counted, unknown

LOG = logging.getLogger(__name__)


def read_list(card: Card, root: str, faults: Faults, *, file: str = "", images: str = "") -> Images:
    """Read the list DATASET.ROOT, or a folder with one list, or with one for each split (`train.csv`, `train/x.csv`).

    `file`, in a card of your own: the list below DATASET.ROOT. Paths are relative to the list's folder, or to
    DATASET.ROOT, whichever has the first of them; `images`: to that folder below DATASET.ROOT. Integer labels are
    taken in their order, others sorted; class names come from their own column, or from `names.txt` beside the list,
    or are the labels. Without a split column see `default_split.complete`.
    """
    top = Path(root).expanduser()
    if file or not os.path.isfile(top):
        top = data_root(card, root, otherwise="")
    lists = {top / file: ""} if file else find_lists(card, top)
    first = next(iter(lists))
    spread = not file and first.parent.parent == top  # a list in each folder of a split
    rows = [row for found, split in lists.items() for row in _rows_with_split(found, split, faults, spread)]
    rows = whole_numbers(rows)
    if not rows:
        raise missing(card, f"the list {first} has no rows")
    folder = top if os.path.isdir(top) else top.parent
    if images or os.path.isabs(rows[0].path):
        base = folder / images
    else:
        base = next((place for place in (first.parent, folder) if Finder(place).find(rows[0].path)), first.parent)
    located = _locate(card, base, first, rows, faults)
    splits = split_rows(_once(located, first, faults), first, read_names(first.parent))
    return Images(*splits, partial(open_image, str(base)), str(base))


def find_lists(card: Card, top: Path) -> dict[Path, str]:
    """Return list -> its split: the file itself, the lists of splits in a folder, or the only list in it.

    A folder without lists may hold folders of splits with one table each, such as Roboflow's `train/_classes.csv`.
    """
    if os.path.isfile(top):
        return {top: ""}
    found = [top / name for name in names_in(top) if Path(name).suffix.lower() in READ]
    splits = {file: split for file in found if (split := split_word(file.stem))}
    whole = [file for file in found if file.suffix.lower() != ".txt"]  # a .txt may be anything
    if splits or len(whole) == 1:
        return splits or {whole[0]: ""}
    inner = {name: [each for each in names_in(top / name) if each.lower().endswith(".csv")] for name in folders_in(top)}
    spread = {top / name / each[0]: split_word(name) for name, each in inner.items() if len(each) == 1}
    if not whole and spread and all(spread.values()):
        return spread
    state = f"{len(whole)} lists, of which DATASET.ROOT must name one" if whole else "no list"
    raise missing(card, f"{top} holds {state}")


def _rows_with_split(file: Path, split: str, faults: Faults, spread: bool) -> list[Row]:
    """Read the rows of a list, with the split that their column names, or else the list; `spread`: paths below it."""
    rows = []
    for row in read_rows(file):
        with faults:
            own = row.split.strip().lower()
            if own and not split_word(own):
                raise InputError(f"{row.place}: {unknown('split', own, SPLIT_OF)}")
            path = f"{file.parent.name}/{row.path}" if spread else row.path
            rows.append(row._replace(split=split_word(own) or split, path=path))
    return rows


def _locate(card: Card, base: Path, source: Path, rows: Sequence[Row], faults: Faults) -> list[Row]:
    """Return the rows with paths below `base` as they are stored. InputError if an image does not exist."""
    finder, located, absent = Finder(base), [], []
    for row in rows:
        with faults:
            path = listed_path(row.path, base, row.place)
            stored = finder.find(path)
            absent += [path] if stored is None else []
            located.append(row._replace(path=stored or path))
    with faults:
        if absent:
            raise missing_images(card, source, base, absent, len(rows))
    return located


def _once(rows: Sequence[Row], source: Path, faults: Faults) -> list[Row]:
    """Return the first row of each image. InputError for an image with two labels or in two splits."""
    first: dict[str, Row] = {}
    for row in rows:
        with faults:
            earlier = first.setdefault(row.path, row)
            if earlier.label != row.label:
                raise InputError(f"{source} lists {row.path!r} as {earlier.label!r} and as {row.label!r}")
            if earlier.split != row.split:
                raise InputError(f"{source} lists {row.path!r} in {earlier.split} and in {row.split}")
    if len(first) < len(rows):
        LOG.warning("%s lists %s more than once: each is taken once", source, counted(len(rows) - len(first), "image"))
    return list(first.values())
