"""The words that folders, lists and shards share: names of splits, and names of columns."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development"),
    "test": ("test", "testing"),
}
"""Split -> the words that name it, in upper or lower case."""
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
BESIDE = {"set", "data", "dataset", "split", "image", "images", "img", "imgs", "file", "files", "list", "labels"}
"""Words that may stand beside the name of a split, as in "Training set" or "test_images"."""
NAMED = re.compile(f"({'|'.join(SPLIT_OF)})({'|'.join(sorted(BESIDE))})?")
"""A word that names a split, perhaps with one of these joined to it: "trainset", "TestData"."""

COLUMNS = {
    "path": (
        *("path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagefilename", "imagename"),
        *("img", "imgpath", "imgfile", "imgname", "fname", "imageid", "picture"),
    ),
    "label": (
        *("label", "target", "class", "classes", "category", "categories", "classlabel", "classid", "classindex"),
        *("classidx", "labelid", "labelindex", "categoryid", "targetid"),
    ),
    "name": ("classname", "labelname", "categoryname", "targetname"),
    "split": ("split", "part", "subset", "partition", "set", "phase", "dataset"),
}
"""Field of a row -> names of its column, without spaces, hyphens and underscores; a plural s may follow."""


def split_word(name: str) -> str:
    """Return the split that a folder, a file or a cell names: "Training", "test_images", "valid" -> "val"; else ""."""
    words = [word for word in re.findall("[a-z]+", name.lower()) if word not in BESIDE]
    named = NAMED.fullmatch(words[0]) if len(words) == 1 and not re.search(r"[^\W\d_a-z]", name.lower()) else None
    return SPLIT_OF[named[1]] if named else ""


def split_in(path: str) -> str:
    """Return the first split that any word of a path names: "val/0.tar", "in1k-val-0001.tar" -> "val"; else ""."""
    named = (NAMED.fullmatch(word) for word in re.findall("[a-z]+", path.lower()))
    return next((SPLIT_OF[word[1]] for word in named if word), "")


def columns_of(field: str, names: Iterable[str]) -> list[int]:
    """Return the positions of the names that a column of this field may have, the most usual first."""
    plain = [re.sub(r"[\s_-]+", "", name).lower() for name in names]
    spellings = [[word, f"{word}s"] for word in COLUMNS[field]]
    return [n for same in spellings for n, name in enumerate(plain) if name in same]
