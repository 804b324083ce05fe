"""The one rule by which folders are searched for images, in training, tests, checks and predictions."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptvision.data.decode import SUFFIXES
from promptvision.data.readers.layout import hidden, refuse_folder
from promptvision.errors import counted, shown

SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that a system writes into every folder; they are left out without a word."""


@dataclass
class LeftOut:
    """Files and folders that a search leaves out: (noun, plural, reason) -> their paths."""

    paths: dict[tuple[str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, path: str | Path, one: str, many: str = "", why: str = "") -> None:
        """Count a path, which is `one` of `many` (if its plural takes no s) that are left out."""
        if os.path.basename(path) not in SYSTEM:
            self.paths[one, many, why].append(str(path))

    def sentences(self, top: str | Path = "") -> list[str]:
        """Return a sentence for each reason: how many, and one of them, named relative to `top`."""
        told = []
        for (one, many, why), paths in self.paths.items():
            first = min(os.path.relpath(path, top) if top else path for path in paths)
            told.append(f"left out: {counted(len(paths), one, many)}{why}, such as {shown(first)}")
        return told


def search(folder: Path, left_out: LeftOut, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the files with these suffixes below a folder, sorted, and count the others in `left_out`.

    Hidden files and folders (`.x`, `._x`, `__MACOSX`, `.ipynb_checkpoints`) are left out. Links are followed, but
    to each folder once, and to none that holds this one, or the link by which it was reached: a loop of links ends.
    """
    found: list[Path] = []
    top = Path(os.path.realpath(folder))
    seen = {*map(str, (top, *top.parents)), *map(os.path.realpath, Path(os.path.abspath(folder)).parents)}
    for place, inner, files in os.walk(folder, onerror=refuse_folder, followlinks=True):
        entered = []
        for name in sorted(inner):
            real = os.path.realpath(os.path.join(place, name))
            if hidden(name):
                left_out.add(os.path.join(place, name), "hidden folder")
            elif real in seen:
                left_out.add(os.path.join(place, name), "link", why=" to a folder that is searched already")
            else:
                seen.add(real)
                entered.append(name)
        inner[:] = entered
        found += [Path(place, name) for name in chosen(place, files, left_out, suffixes)]
    return sorted(found, key=lambda path: path.as_posix())


def chosen(
    folder: str | Path, names: Iterable[str], left_out: LeftOut, suffixes: Sequence[str] = SUFFIXES
) -> list[str]:
    """Return the sorted names with these suffixes that are not hidden, and count the others in `left_out`."""
    kept = []
    for name in sorted(names):
        if hidden(name):
            left_out.add(os.path.join(folder, name), "hidden file")
        elif name.lower().endswith(tuple(suffixes)):
            kept.append(name)
        else:
            left_out.add(os.path.join(folder, name), *unread(os.path.splitext(name)[1].lower()))
    return kept


def unread(suffix: str) -> tuple[str, str]:
    """Return singular and plural of files with a suffix that are not read as images."""
    kinds = [f"{shown(suffix)} {word}" if suffix else f"{word} without a suffix" for word in ("file", "files")]
    return f"{kinds[0]}, which is not read as an image", f"{kinds[1]}, which are not read as images"
