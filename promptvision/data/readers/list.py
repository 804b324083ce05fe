"""Somebody's own images by a list: CSV, JSON or JSON lines with path, label or class name, and perhaps the split."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

from promptvision.data.card import Card
from promptvision.data.decode import open_image
from promptvision.data.images import Images, Item
from promptvision.data.readers.default_split import SPLITS, complete
from promptvision.data.readers.layout import data_root, missing, names_in
from promptvision.data.readers.list_rows import READ, Row, read_rows
from promptvision.data.readers.names import label_table, read_names
from promptvision.data.readers.paths import Finder, listed_path
from promptvision.errors import InputError, unknown

LOG = logging.getLogger(__name__)


def read_list(card: Card, root: str, *, file: str = "", images: str = "") -> Images:
    """DATASET.ROOT is a list, or a folder that holds one, or one for each of train, val and test (`train.csv` ...).

    `file`, in a card of one's own: the list below DATASET.ROOT. Paths are relative to the list's folder, or to
    DATASET.ROOT, whichever has the first of them; `images`: to that folder below DATASET.ROOT. Integer labels are
    taken in their order, others sorted; class names come from their own column, or from `names.txt` beside the list,
    or are the labels. Without a split column see `own_splits.complete`.
    """
    top = Path(root).expanduser()
    if file or not os.path.isfile(top):
        top = data_root(card, root, otherwise="")
    lists = {top / file: ""} if file else _lists(card, top)
    rows = [row for found, part in lists.items() for row in _parts(read_rows(found), part)]
    first = next(iter(lists))
    if not rows:
        raise missing(card, f"the list {first} has no rows")
    base = _base(first, top if os.path.isdir(top) else top.parent, images, rows[0])
    labels = label_table(rows, first, read_names(first.parent))
    given: dict[str, list[Item]] = {}
    for row, path in zip(rows, _paths(card, base, first, rows), strict=True):
        given.setdefault(row.split, []).append((path, *labels[row.label]))
    return Images(*complete(_once(given, first)), partial(open_image, str(base)), str(base))


def _lists(card: Card, top: Path) -> dict[Path, str]:
    """The list, or the lists by their parts."""
    if os.path.isfile(top):
        if top.suffix.lower() not in READ:
            raise InputError(f"data set {card.name!r}: {top} is no list; a list ends in {', '.join(READ)}")
        return {top: ""}
    found = [top / name for name in names_in(top) if Path(name).suffix.lower() in READ]
    parts = {file: SPLITS[file.stem.lower()] for file in found if file.stem.lower() in SPLITS}
    whole = [file for file in found if file.suffix.lower() != ".txt"]  # a .txt may be anything
    if parts or len(whole) == 1:
        return parts or {whole[0]: ""}
    state = f"{len(whole)} lists, of which DATASET.ROOT must name one" if whole else "no list"
    raise missing(card, f"{top} holds {state}")


def _parts(rows: list[Row], part: str) -> list[Row]:
    """Rows with the split that their column, or else the file, says."""
    known = [row._replace(split=row.split.strip().lower() or part) for row in rows]
    for row in known:
        if row.split and row.split not in SPLITS:
            raise InputError(f"{row.place}: {unknown('split', row.split, SPLITS)}")
    bare = [row.place for row in known if not row.split]
    if bare and len(bare) < len(known):
        raise InputError(f"{bare[0]}: no split, though other rows have one")
    return [row._replace(split=SPLITS.get(row.split, "")) for row in known]


def _base(file: Path, top: Path, images: str, first: Row) -> Path:
    """The folder that paths are relative to."""
    if images:
        return top / images
    if os.path.isabs(first.path):
        return top
    places = [place for place in (file.parent, top) if Finder(place).find(first.path) is not None]
    return places[0] if places else file.parent


def _paths(card: Card, base: Path, file: Path, rows: list[Row]) -> list[str]:
    """Where the images are, below `base`; all must be there."""
    finder = Finder(base)
    wanted = [listed_path(row.path, base, row.place) for row in rows]
    found = [finder.find(path) for path in wanted]
    absent = [path for path, stored in zip(wanted, found, strict=True) if stored is None]
    if absent:
        near = finder.nearly(absent[0])
        hint = f" (there is {near!r}, in other upper and lower case)" if near else ""
        share = f"{len(absent)} of the {len(rows)} images that {file} lists are missing"
        raise missing(card, f"{share}, such as {str(base / absent[0])!r}{hint}")
    return [stored for stored in found if stored is not None]


def _once(given: dict[str, list[Item]], file: Path) -> dict[str, list[Item]]:
    """Each image once; InputError for one that has two labels or is in two parts."""
    seen: dict[str, tuple[str, Item]] = {}
    repeats = 0
    for part, items in given.items():
        for item in items:
            other, earlier = seen.setdefault(item[0], (part, item))
            if earlier != item:
                raise InputError(f"{file} lists {item[0]!r} as {earlier[2]!r} and as {item[2]!r}")
            if other != part:
                raise InputError(f"{file} lists {item[0]!r} in {other} and in {part}")
        repeats += len(items) - len(set(items))
    if repeats:
        LOG.warning("%s lists %d images more than once: each is taken once", file, repeats)
    return {part: list(dict.fromkeys(items)) for part, items in given.items()}
