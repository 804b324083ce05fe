"""Paths that a list file names: kept inside one folder, and found however they are spelt."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from promptvision.errors import InputError


def listed_path(path: str, base: Path, place: str) -> str:
    """A listed path, relative to `base`, with forward slashes where it has none of its own in a name.

    An absolute path below `base` becomes relative. InputError, beginning with `place`, for a path that is absolute
    elsewhere, in the notation of any system, or that climbs out of `base`. Symbolic links are followed: whoever made
    them meant it.
    """
    if os.path.isabs(path):
        inner = _below(path, str(base)) or _below(os.path.realpath(path), os.path.realpath(base))
        if not inner:
            raise InputError(f"{place}: the absolute path {path!r} is not below {base}; write paths relative to it")
        return inner
    plain = path.replace("\\", "/")
    if plain.startswith("/") or PureWindowsPath(path).drive:
        raise InputError(f"{place}: the path {path!r} is absolute on another system; write paths relative to {base}")
    if posixpath.normpath(plain).split("/")[0] == "..":
        raise InputError(f"{place}: the path {path!r} leaves the folder {base}")
    return posixpath.normpath(path)


def _below(path: str, base: str) -> str:
    """The path from `base` on; empty if it does not lie below."""
    path, base = os.path.normpath(path), os.path.normpath(base)
    try:
        inner = os.path.relpath(path, base)
    except ValueError:  # another drive
        return ""
    return "" if inner == os.curdir or inner.split(os.sep)[0] == os.pardir else inner.replace(os.sep, "/")


class Finder:
    """Finds listed paths below a folder.

    Tried in turn: as written; with backslashes as separators; with names compared in Unicode's composed form, since
    a list and a file system may differ in that (macOS once stored decomposed names).
    """

    def __init__(self, base: Path):
        self.base = base
        self._names: dict[tuple[str, Callable[[str], str]], dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The path as it is stored; None if there is no such file."""
        for spelling in dict.fromkeys((path, posixpath.normpath(path.replace("\\", "/")))):
            if os.path.isfile(self.base / spelling):
                return spelling
        return self._match(posixpath.normpath(path.replace("\\", "/")), _form)

    def nearly(self, path: str) -> str | None:
        """A stored path that differs in upper and lower case only."""
        return self._match(posixpath.normpath(path.replace("\\", "/")), _caseless)

    def _match(self, path: str, key: Callable[[str], str]) -> str | None:
        found = ""
        for part in path.split("/"):
            stored = self._stored(found, key).get(key(part))
            if stored is None:
                return None
            found = f"{found}/{stored}" if found else stored
        return found if os.path.isfile(self.base / found) else None

    def _stored(self, folder: str, key: Callable[[str], str]) -> dict[str, str]:
        """Compared form -> name, of everything in a folder."""
        if (folder, key) not in self._names:
            try:
                names = sorted(os.listdir(self.base / folder))
            except OSError:
                names = []
            self._names[folder, key] = {key(name): name for name in reversed(names)}
        return self._names[folder, key]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _caseless(name: str) -> str:
    return _form(name).casefold()
