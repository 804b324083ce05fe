"""The one rule by which folders are searched for images, in training, tests, checks and predictions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptvision.data.decode import SUFFIXES
from promptvision.data.readers.layout import hidden, refuse_folder
from promptvision.errors import counted, shown

SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that a system writes into every folder; they are left out without a word."""


@dataclass
class LeftOut:
    """Files and folders that a search leaves out: (noun, plural, reason) -> their number, and the first path."""

    found: dict[tuple[str, str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, path: str | Path, one: str, many: str = "", why: str = "") -> None:
        """Count a path, which is `one` of `many` (if its plural takes no s) that are left out."""
        if os.path.basename(path) not in SYSTEM:
            count, first = self.found.get((one, many, why), (0, str(path)))
            self.found[one, many, why] = count + 1, min(first, str(path))

    def sentences(self, top: str | Path = "") -> list[str]:
        """Return a sentence for each reason: how many, and one of them, named relative to `top`."""
        told = []
        for (one, many, why), (count, first) in self.found.items():
            name = os.path.relpath(first, top) if top else first
            told.append(f"left out: {counted(count, one, many)}{why}, such as {shown(name)}")
        return told


def search(folder: Path, left_out: LeftOut, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the files that `walk` yields."""
    return list(map(Path, walk(folder, left_out, suffixes)))


def walk(folder: Path, left_out: LeftOut, suffixes: Sequence[str] = SUFFIXES) -> Iterator[str]:
    """Yield the files with these suffixes below a folder, sorted, and count the others in `left_out`.

    Hidden files and folders (`.x`, `._x`, `__MACOSX`, `.ipynb_checkpoints`) are left out. Links are followed, but
    to each folder once, and to none that holds this one, or the link by which it was reached: a loop of links ends.
    One folder is listed at a time.
    """
    top = Path(os.path.realpath(folder))
    seen = {*map(str, (top, *top.parents)), *map(os.path.realpath, Path(os.path.abspath(folder)).parents)}
    yield from _below(str(folder), left_out, suffixes, seen)


def _below(folder: str, left_out: LeftOut, suffixes: Sequence[str], seen: set[str]) -> Iterator[str]:
    """Yield the files of `walk` in and below a folder; `seen`: the real paths of folders that are not entered again."""
    _, inner, files = next(os.walk(folder, onerror=refuse_folder))
    found = chosen(folder, files, left_out, suffixes)
    for name in sorted(inner):
        real = os.path.realpath(os.path.join(folder, name))
        if hidden(name):
            left_out.add(os.path.join(folder, name), "hidden folder")
        elif real in seen:
            left_out.add(os.path.join(folder, name), "link", why=" to a folder that is searched already")
        else:
            seen.add(real)
            found.append(f"{name}/")  # sorts like the paths below it
    for name in sorted(found):
        path = os.path.join(folder, name)
        if name.endswith("/"):
            yield from _below(path.removesuffix("/"), left_out, suffixes, seen)
        else:
            yield path


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
